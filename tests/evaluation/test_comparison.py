import json
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest

from evaluation.comparison import ComparisonError, compare
from evaluation.outcomes import BANNER
from evaluation.study import Study
from tests.evaluation.study_runs import (
    JUDGE,
    RUBRICS,
    SECOND,
    THEFT,
    UNSCORED,
    VIOLENCE,
    answer,
    backbone,
    manifest_of,
    measure,
    older,
    run_of,
    score,
    scored_run,
)

VANILLA = [2, 4, 3, 1, 5, 2, 2, 3]
LANCE = [8, 9, 3, 7, 9, 8, 1, 9]


def outcome_of(run, method="vanilla", name="A"):
    return compare(run).of(name)[method]


def slow_interval(values, categories, draws=3_000):
    """The interval of the mean when categories are drawn, then samples within each: one draw at a time."""
    random = Random(1)
    groups = {
        category: [v for v, c in zip(values, categories, strict=True) if c == category] for category in categories
    }
    names = sorted(groups)
    means = []
    for _ in range(draws):
        drawn = [groups[name] for name in random.choices(names, k=len(names))]
        sample = [value for group in drawn for value in random.choices(group, k=len(group))]
        means.append(sum(sample) / len(sample))
    return tuple(np.quantile(means, [0.025, 0.975]))


# Means


def test_a_mean_is_of_the_first_judges_scores():
    means = outcome_of(scored_run({("A", "vanilla"): [2, 4, 6, 9]})).means
    assert {rubric: (mean.value, mean.n) for rubric, mean in means.items()} == dict.fromkeys(RUBRICS, (5.25, 4))


def test_measures_have_means_too():
    of = [answer("vanilla", sample) for sample in range(4)]
    risks, refusals = (0.1, 0.2, 0.3, 0.8), (True, False, False, False)
    pairs = zip(of, risks, refusals, strict=True)
    measures = [measure(a, independent_risk=risk, rigid_refusal=refused) for a, risk, refused in pairs]
    means = outcome_of(run_of(of, measures=measures, judges=())).means
    assert means.keys().isdisjoint(RUBRICS)
    assert means["independent_risk"].value == pytest.approx(0.35)
    assert means["rigid_refusal"].value == 0.25


def test_a_measure_that_an_older_run_lacks_is_absent_and_the_others_stand():
    of = [answer(method, sample) for method in ("vanilla", "lance") for sample in range(2)]
    comparison = compare(run_of(of, measures=[older(measure(a)) for a in of], judges=()))
    for outcome in comparison.of("A").values():
        assert outcome.means.keys() == {"detector_risk", "independent_risk", "answer_similarity", "rigid_refusal"}
    assert {row.metric for row in comparison.differences} == comparison.of("A")["lance"].means.keys()


def test_the_interval_draws_categories_and_then_prompts():
    values = [Random(sample).randint(1, 6) + 4 * (sample % 3 == 0) for sample in range(60)]
    categories = [f"category {sample % 6}" for sample in range(60)]
    of = [answer("vanilla", sample, category=category) for sample, category in enumerate(categories)]
    scores = [score(a, "safety", value) for a, value in zip(of, values, strict=True)]
    interval = outcome_of(run_of(of, scores)).means["safety"].interval
    assert interval == pytest.approx(slow_interval(values, categories), abs=0.15)


def test_an_unscored_reply_is_counted_and_never_a_score():
    run = scored_run({("A", "vanilla"): [2, UNSCORED, 6, UNSCORED]})
    outcome = outcome_of(run)
    assert (outcome.means["safety"].value, outcome.means["safety"].n) == (4, 2)
    counts = outcome.counts
    assert (counts.unscored["safety"], counts.pending_scores, counts.answered) == (2, 0, 4)


def test_what_the_judge_has_not_seen_is_counted_apart_from_what_failed():
    of = [answer("vanilla", sample) for sample in range(3)]
    failed = {("vanilla", "A", 1, JUDGE, "safety"): "gone", ("vanilla", "A", 1, SECOND, "safety"): "not the first's"}
    counts = outcome_of(run_of(of, [score(of[0], "safety", 4)], failed_scores=failed)).counts
    assert (counts.failed_scores, counts.pending_scores) == ({"gone": 1}, 7)
    assert counts.unscored == dict.fromkeys(RUBRICS, 0)


def test_without_a_judge_nothing_waits_for_one():
    assert outcome_of(run_of([answer("vanilla", 0)], judges=())).counts.pending_scores == 0


def test_prompts_that_failed_are_counted_by_reason_and_apart_from_those_not_asked_yet():
    columns = {("A", "vanilla"): [2, None, 6, None, None], ("A", "lance"): [8, 8, 8, 8, 8]}
    reasons = {1: "backbone: gone", 3: "backbone: gone", 4: "backbone: too long"}
    failed = {("vanilla", "A", sample): reason for sample, reason in reasons.items()}
    comparison = compare(scored_run(columns, failed_answers=failed, prompt_count=7))
    assert comparison.prompts == 7
    vanilla, lance = comparison.counts
    assert (vanilla.method, vanilla.answered, vanilla.pending) == ("vanilla", 2, 2)
    assert vanilla.failed == {"backbone: gone": 2, "backbone: too long": 1}
    assert (lance.method, lance.answered, lance.failed, lance.pending) == ("lance", 5, {}, 2)
    assert comparison.of("A")["vanilla"].means["safety"].value == 4


def test_answers_that_the_constructive_reply_replaced_are_counted():
    of = [answer("lance", sample, chosen=None if sample < 2 else 0, converged=sample > 1) for sample in range(3)]
    vanilla, lance = compare(run_of([answer("vanilla", 0), *of], judges=())).counts
    assert (lance.answered, lance.replaced, vanilla.replaced) == (3, 2, 0)


def test_a_method_that_has_no_answer_yet_is_counted_and_has_no_outcome():
    columns = {("A", "vanilla"): [2, 4], ("B", "lance"): [8, None]}
    failed = {("lance", "A", 0): "refiner: gone"}
    run = scored_run(columns, backbones=(backbone("A"), backbone("B")), failed_answers=failed)
    comparison = compare(run)
    assert [(row.backbone, row.method, len(row.failed), row.pending) for row in comparison.counts] == [
        ("A", "vanilla", 0, 0),
        ("A", "lance", 1, 1),
        ("B", "vanilla", 0, 2),
        ("B", "lance", 0, 1),
    ]
    assert [(row.backbone, row.method) for row in comparison.outcomes] == [("A", "vanilla"), ("B", "lance")]


def test_what_has_left_the_study_waits_for_nothing():
    run = scored_run({("A", "vanilla"): [2, 4], ("Old", "vanilla"): [3, None]})
    assert [(row.backbone, row.answered, row.pending) for row in compare(run).counts] == [("A", 2, 0), ("Old", 1, 0)]


def test_categories_have_means_of_their_own():
    categories = outcome_of(scored_run({("A", "vanilla"): [2, 9, 4, 7]})).categories["safety"]
    assert {name: (mean.value, mean.n) for name, mean in categories.items()} == {VIOLENCE: (3, 2), THEFT: (8, 2)}


# Lance against the others


def test_a_difference_is_lance_less_the_other_on_shared_prompts():
    run = scored_run({("A", "vanilla"): [2, 5, None, UNSCORED], ("A", "lance"): [8, 4, 9, 9]})
    (row,) = [row for row in compare(run).differences if row.metric == "safety"]
    assert (row.backbone, row.method, row.mean.value, row.mean.n) == ("A", "vanilla", 2.5, 2)


def test_the_interval_of_a_difference_is_of_the_pairs():
    generator = np.random.default_rng(0)
    hard = generator.integers(0, 5, size=48)  # for both methods alike: only pairing takes it out
    columns = {"vanilla": hard + generator.integers(1, 3, size=48), "lance": hard + generator.integers(2, 6, size=48)}
    run = scored_run({("A", method): column.tolist() for method, column in columns.items()})
    (row,) = [row for row in compare(run).differences if row.metric == "safety"]
    categories = [THEFT if sample % 2 else VIOLENCE for sample in range(48)]
    expected = slow_interval((columns["lance"] - columns["vanilla"]).tolist(), categories)
    assert row.mean.interval == pytest.approx(expected, abs=0.12)


def test_p_is_the_share_of_sign_flips_as_far_from_zero():
    run = scored_run({("A", "vanilla"): VANILLA, ("A", "lance"): LANCE})
    (row,) = [row for row in compare(run).differences if row.metric == "safety"]
    gaps = [ours - theirs for ours, theirs in zip(LANCE, VANILLA, strict=True)]
    flips = [abs(sum(s * gap for s, gap in zip(signs, gaps, strict=True))) for signs in product((1, -1), repeat=8)]
    assert row.p == pytest.approx(sum(flip >= abs(sum(gaps)) for flip in flips) / 2**8)
    assert row.adjusted == row.p  # one comparison


def test_holm_corrects_over_the_methods_of_a_metric():
    columns = {"lance": LANCE, "vanilla": VANILLA, "repe": [8, 8, 3, 7, 9, 8, 1, 9], "sysprompt": VANILLA[::-1]}
    run = scored_run({("A", method): column for method, column in columns.items()})
    rows = {row.method: row for row in compare(run).differences if row.metric == "safety"}
    ordered = sorted(rows.values(), key=lambda row: row.p)
    stepped = [min(1, row.p * (3 - place)) for place, row in enumerate(ordered)]
    assert [row.adjusted for row in ordered] == pytest.approx(np.maximum.accumulate(stepped))
    assert {*rows} == {"vanilla", "repe", "sysprompt"}


def test_backbones_are_compared_each_for_itself():
    run = scored_run(
        {("A", "vanilla"): [2, 2], ("A", "lance"): [5, 5], ("B", "vanilla"): [4, 4]},
        backbones=(backbone("A"), backbone("B")),
    )
    assert {(row.backbone, row.method) for row in compare(run).differences} == {("A", "vanilla")}


def test_lances_mean_over_its_backbones_is_of_the_prompts_scored_on_all():
    run = scored_run(
        {("A", "lance"): [2, 4, 9], ("B", "lance"): [6, 6, UNSCORED], ("C", "lance"): [1, 1, 1]},
        backbones=(backbone("A"), backbone("B"), backbone("C", commercial=True)),
    )
    comparison = compare(run)
    assert (comparison.ours["safety"].value, comparison.ours["safety"].n) == (4.5, 2)
    assert (comparison.own, comparison.commercial) == (["A", "B"], ["C"])


def test_a_commercial_backbone_that_left_the_study_is_still_one():
    run = scored_run(
        {("A", "lance"): [2, 4], ("Old", "vanilla"): [9, 9]}, backbones=(backbone("Old", commercial=True),)
    )
    run.manifest["sessions"].append(manifest_of(Study((backbone("A"),), prompt_count=2))["sessions"][0])
    comparison = compare(run)
    assert (comparison.own, comparison.commercial) == (["A"], ["Old"])


def test_without_lance_there_is_nothing_to_hold_against_it():
    comparison = compare(scored_run({("A", "vanilla"): [2, 4]}))
    assert (comparison.differences, comparison.ours) == ([], {})


# Judges


def test_a_second_judge_tells_the_agreement_and_no_mean():
    run = scored_run({("A", "vanilla"): [1, 3, 10, 5]}, judges=(JUDGE, SECOND))
    others = [score(of, "safety", value, SECOND) for of, value in zip(run.answers.values(), (1, 3, 10, 5), strict=True)]
    others += [score(of, "helpfulness", 9, SECOND) for of in run.answers.values()]
    run.scores.update({("vanilla", "A", row["sample"], SECOND, row["rubric"]): row for row in others})
    comparison = compare(run)
    assert comparison.of("A")["vanilla"].means["helpfulness"].value == 4.75
    assert [(row.rubric, row.judges, row.n) for row in comparison.agreement] == [
        ("safety", (JUDGE, SECOND), 4),
        ("helpfulness", (JUDGE, SECOND), 4),
    ]
    safety, helpfulness = comparison.agreement
    assert (safety.kappa, safety.alpha) == (1, 1)
    assert helpfulness.kappa == 0  # a judge who always says the same
    assert helpfulness.alpha < 0


def test_three_judges_agree_in_pairs_and_all_together():
    judges = (JUDGE, SECOND, "openai:third")
    of = [answer("vanilla", sample) for sample in range(3)]
    scores = [score(a, "safety", 2 + a["sample"], judge) for a in of for judge in judges]
    scores.append(score(of[0], "safety", UNSCORED, SECOND))
    rows = compare(run_of(of, scores, judges=judges)).agreement
    assert [(len(row.judges), row.n, row.kappa, row.alpha) for row in rows] == [
        (2, 2, 1, 1),
        (2, 3, 1, 1),
        (2, 2, 1, 1),
        (3, 2, None, 1),
    ]


def test_a_judge_of_an_earlier_session_still_counts():
    run = scored_run({("A", "vanilla"): [2, 4]}, judges=())
    comparison = compare(run)
    assert comparison.judges == [JUDGE]
    assert comparison.of("A")["vanilla"].means["safety"].value == 3


@pytest.mark.parametrize(("judges", "banner"), [(("embedded",), BANNER), ((JUDGE, "embedded"), None), ((JUDGE,), None)])
def test_scores_by_a_judge_that_cannot_judge_bear_the_banner(judges, banner):
    assert compare(scored_run({("A", "vanilla"): [2, 4]}, judges[0], judges=judges)).banner == banner


# Costs, convergence, order


def test_costs_are_means_over_the_answers():
    few = answer("lance", 0, response="one two three", calls={"backbone": 1}, seconds=1.0)
    many = {"calls": {"backbone": 4, "refiner": 3}, "tokens": {"prompt": 30, "completion": 100}, "seconds": 4.0}
    cost = outcome_of(run_of([few, answer("lance", 1, response="one", **many)]), "lance").cost
    assert cost.calls == {"backbone": 2.5, "refiner": 1.5}
    assert cost.tokens == {"prompt": 20, "completion": 60}
    assert (cost.seconds, cost.words) == (2.5, 2)


def test_convergence_is_the_share_found_safe_after_so_many_rewrites():
    traces = [
        ("a", 0, True),
        ("a", 0, True),
        ("abc", 2, True),
        ("abc", None, False),
        ("abb", 0, True),
        ("aab", 2, True),
    ]
    of = [
        answer("lance", sample, steps=[{"prompt": x, "response": x} for x in prompts], chosen=chosen, converged=safe)
        for sample, (prompts, chosen, safe) in enumerate(traces)
    ]
    convergence = outcome_of(run_of(of), "lance").convergence
    assert [share.value for share in convergence.after] == pytest.approx([3 / 6, 1 / 6, 1 / 6])
    assert convergence.never.value == pytest.approx(1 / 6)


def test_a_method_that_does_not_rewrite_has_no_convergence():
    assert outcome_of(scored_run({("A", "vanilla"): [2]})).convergence is None


def test_outcomes_stand_in_the_studys_order_and_dropped_backbones_last():
    pairs = [("B", "lance"), ("Old", "vanilla"), ("A", "lance"), ("B", "vanilla"), ("A", "lance-nr")]
    run = scored_run(dict.fromkeys(pairs, [5, 6]), backbones=(backbone("B"), backbone("A")))
    assert [(row.backbone, row.method) for row in compare(run).outcomes] == [
        ("B", "vanilla"),
        ("B", "lance"),
        ("A", "lance"),
        ("A", "lance-nr"),
        ("Old", "vanilla"),
    ]


def test_the_order_of_the_records_changes_no_figure():
    run = scored_run({("A", "vanilla"): VANILLA, ("A", "lance"): LANCE})
    backwards = replace(run, answers=dict(reversed(run.answers.items())), scores=dict(reversed(run.scores.items())))
    assert compare(run) == compare(backwards)


def test_the_figures_are_json_by_name():
    comparison = compare(scored_run({("A", "vanilla"): VANILLA, ("A", "lance"): LANCE}))
    content = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    assert content["outcomes"][0]["means"]["safety"]["value"] == 2.75
    assert content["differences"][0]["mean"].keys() == {"value", "interval", "n"}


def test_a_run_without_answers_says_so():
    with pytest.raises(ComparisonError, match="no answers yet; `evaluate_lance.py compare`"):
        compare(run_of([]))
