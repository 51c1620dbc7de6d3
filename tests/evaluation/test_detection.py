import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from corpora.beavertails import FEATURES
from corpora.pairs import load_pairs
from corpora.xstest import FULL_COMPLIANCE, load_xstest_completions, load_xstest_prompts
from evaluation.detection import UNCERTAINTY_LEVEL, beavertails_report, other_domains_report, score, xstest_report
from evaluation.detection_table import detection_markdown

DATA = Path(__file__).parents[1] / "data"
METRIC = Path(__file__).parents[2] / "metrics" / "risk_distribution"
REFUSAL, PARTIAL = "2_full_refusal", "3_partial_refusal"

pytestmark = pytest.mark.filterwarnings("ignore:No positive class found")


@dataclass
class Assessment:
    mean: dict[str, float]

    @property
    def std(self):
        return {category: risk / 10 for category, risk in self.mean.items()}

    def interval(self, level):
        assert level == UNCERTAINTY_LEVEL
        return {category: (risk / 2, min(2 * risk, 0.45)) for category, risk in self.mean.items()}


class KnownDetector:
    """Looks each pair's risk up; a single number is the risk of the second category, the first one's is half of it."""

    def __init__(self, risks, threshold=0.5, cuts=None):
        self.risks = risks
        self.config = SimpleNamespace(
            binary_threshold=threshold, category_thresholds=cuts, categories=["theft", "violence"]
        )

    def assess(self, prompts, responses=None):
        keys = list(zip(prompts, [None] * len(prompts) if responses is None else responses, strict=True))
        risks = [self.risks[key] for key in keys]
        pairs = [(risk / 2, risk) if isinstance(risk, float) else risk for risk in risks]
        return [Assessment({"theft": first, "violence": second}) for first, second in pairs]


def test_scores_keep_the_order_of_pairs_and_categories():
    detector = KnownDetector({("a", "x"): (0.1, 0.7), ("b", None): (0.6, 0.2)})
    scores = score(detector, ["b", "a"], [None, "x"])
    assert scores.risk.tolist() == [[0.6, 0.2], [0.1, 0.7]]
    assert scores.max_risk.tolist() == [0.6, 0.7]


def test_the_upper_end_is_never_below_the_risk():
    detector = KnownDetector({("a", None): (0.1, 0.7), ("b", None): (0.2, 0.4)})
    assert score(detector, ["a", "b"]).upper.tolist() == [[0.2, 0.7], [0.4, 0.45]]


def test_without_responses_prompts_are_scored_alone():
    assert score(KnownDetector({("a", None): 0.3}), ["a"]).max_risk.tolist() == [0.3]


PAIRS = {
    # (prompt, response): (risks, labels)
    ("1", "x"): ((0.9, 0.2), [1, 0]),
    ("2", "x"): ((0.6, 0.7), [1, 0]),
    ("3", "x"): ((0.3, 0.8), [0, 0]),
    ("4", "x"): ((0.1, 0.4), [0, 1]),
    ("5", "x"): ((0.2, 0.1), [0, 0]),
}


def labelled_pairs():
    rows = [
        {"prompt": prompt, "response": response, "labels": labels, "labels_mean": labels}
        for (prompt, response), (_, labels) in PAIRS.items()
    ]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def beavertails():
    risks = {key: risk for key, (risk, _) in PAIRS.items()}
    detector = KnownDetector(risks, threshold=0.75)
    return beavertails_report(detector, labelled_pairs(), METRIC)


def test_beavertails_figures_agree_with_those_by_hand_at_the_checkpoints_own_threshold(beavertails):
    assert (beavertails["n"], beavertails["harmful"]) == (5, 3)
    assert beavertails["threshold"] == 0.75
    # Flagged: 1 for theft, 3 for violence.
    figures = {"binary_f1": 2 / 5, "auprc": 29 / 36, "micro_f1": 2 / 5, "macro_f1": 1 / 3, "map": 2 / 3}
    figures |= {"flag_rate_safe": 1 / 2, "flag_rate_harmful": 1 / 3}
    assert {name: beavertails[name] for name in figures} == pytest.approx(figures)
    # Every highest risk has a bin of fifteen of its own, so each is held against its own outcome.
    assert beavertails["ece"] == pytest.approx((0.1 + 0.3 + 0.8 + 0.6 + 0.2) / 5, abs=1e-6)


def test_of_safe_pairs_alone_the_share_flagged_is_known_and_no_figure_that_needs_harm():
    pairs = labelled_pairs().filter(lambda row: not any(row["labels"]))
    detector = KnownDetector({key: risk for key, (risk, _) in PAIRS.items()}, threshold=0.75)
    report = beavertails_report(detector, pairs, METRIC)
    assert report["flag_rate_safe"] == 1 / 2
    undefined = ("binary_f1", "binary_f1_interval", "auprc", "auprc_interval", "map", "flag_rate_harmful")
    assert [report[name] for name in undefined] == [None] * 6
    strict = json.dumps({"beavertails": report, "parameters": 22_700_000}, allow_nan=False)
    assert "50.0" in detection_markdown(json.loads(strict))


def test_beavertails_categories_have_their_own_f1_and_positives(beavertails):
    theft, violence = beavertails["category_f1"]["theft"], beavertails["category_f1"]["violence"]
    assert (theft["f1"], theft["positives"]) == (pytest.approx(2 / 3), 2)
    assert (violence["f1"], violence["positives"]) == (0, 1)
    assert theft["interval"] == (0, 1)
    assert violence["interval"] == (0, 0)


def test_each_category_may_have_a_cut_of_its_own(beavertails):
    detector = KnownDetector({key: risk for key, (risk, _) in PAIRS.items()}, threshold=0.75, cuts=[0.5, 0.35])
    report = beavertails_report(detector, labelled_pairs(), METRIC)
    # Flagged: 1 and 2 for theft, both rightly; 2, 3 and 4 for violence, of which 4 is right.
    assert [row["f1"] for row in report["category_f1"].values()] == pytest.approx([1, 1 / 2])
    assert report["macro_f1"] == pytest.approx(3 / 4)
    assert report["binary_f1"] == beavertails["binary_f1"]


def test_beavertails_intervals_hold_their_figures(beavertails):
    for name in ("binary_f1", "auprc"):
        lower, upper = beavertails[f"{name}_interval"]
        assert 0 <= lower < beavertails[name] < upper <= 1


def test_beavertails_errors_are_told_by_the_spread_of_the_riskiest_category(beavertails):
    # Wrong at 0.75: pair 3, the widest of the first; pairs 2 and 4 of the others.
    uncertainty = beavertails["uncertainty"]
    assert [group["spread"] for group in uncertainty["groups"]] == pytest.approx([0.02, 0.04, 0.07, 0.08, 0.09])
    assert [group["errors"] for group in uncertainty["groups"]] == [0, 1, 1, 1, 0]
    assert (uncertainty["widest_tenth"]["errors"], uncertainty["rest"]["errors"]) == (0, 0.75)
    assert uncertainty["smallest_margins"]["errors"] == 1  # 0.7 or 0.8: both are wrong


COMPLETIONS = [
    # prompt, kind, safe, responses with their labels and risks
    ("s1", "homonyms", True, [("a", FULL_COMPLIANCE, 0.2), ("b", REFUSAL, 0.4)]),
    ("s2", "homonyms", True, [("a", FULL_COMPLIANCE, 0.6), ("b", FULL_COMPLIANCE, 0.1)]),
    ("s3", "definitions", True, [("a", PARTIAL, 0.8), ("b", FULL_COMPLIANCE, 0.3)]),
    ("u1", "homonyms", False, [("a", FULL_COMPLIANCE, 0.9), ("b", REFUSAL, 0.6)]),
    ("u2", "contrast_definitions", False, [("a", PARTIAL, 0.95), ("b", FULL_COMPLIANCE, 0.45)]),
]
ALONE = {"s1": 0.1, "s2": 0.35, "s3": 0.55, "u1": 0.75, "u2": 0.4}


@pytest.fixture(scope="module")
def xstest():
    prompts = [{"prompt": prompt, "type": kind, "is_safe": safe} for prompt, kind, safe, _ in COMPLETIONS]
    completions = [
        {"prompt": prompt, "type": kind, "is_safe": safe, "response": response, "label": label}
        for prompt, kind, safe, responses in COMPLETIONS
        for response, label, _ in responses
    ]
    risks = {(prompt, None): risk for prompt, risk in ALONE.items()}
    risks |= {(prompt, response): risk for prompt, _, _, pairs in COMPLETIONS for response, _, risk in pairs}
    detector = KnownDetector(risks)
    return xstest_report(detector, Dataset.from_list(prompts), Dataset.from_list(completions))


def test_xstest_counts_compliances_with_unsafe_prompts_as_harmful(xstest):
    counts = [xstest[name] for name in ("n_safe", "n_harmful", "n_safe_prompts", "n_harmful_prompts")]
    assert counts == [6, 2, 3, 2]


@pytest.mark.parametrize(
    ("threshold", "fpr", "detection", "homonyms", "definitions", "alone_fpr", "alone_detection"),
    [
        ("0.3", 3 / 6, 2 / 2, 2 / 4, 1 / 2, 2 / 3, 2 / 2),
        ("0.5", 2 / 6, 1 / 2, 1 / 4, 1 / 2, 1 / 3, 1 / 2),
        ("0.7", 1 / 6, 1 / 2, 0 / 4, 1 / 2, 0 / 3, 1 / 2),
    ],
)
def test_xstest_rates_agree_with_those_by_hand(
    xstest, threshold, fpr, detection, homonyms, definitions, alone_fpr, alone_detection
):
    rates = xstest[threshold]
    assert (rates["fpr"], rates["detection"]) == pytest.approx((fpr, detection))
    assert rates["fpr_by_type"] == pytest.approx({"homonyms": homonyms, "definitions": definitions})
    alone = rates["prompts_alone"]
    assert (alone["fpr"], alone["detection"]) == pytest.approx((alone_fpr, alone_detection))


def test_xstest_with_uncertainty_flags_what_may_be_above_the_threshold(xstest):
    for threshold in ("0.3", "0.5", "0.7"):
        mean, upper = xstest[threshold], xstest[threshold]["with_uncertainty"]
        # The interval above reaches to 0.45: it matters at 0.3 alone.
        for name in ("fpr", "detection"):
            assert upper[name] >= mean[name]
            assert threshold == "0.3" or upper[name] == mean[name]
    assert xstest["0.3"]["with_uncertainty"]["fpr"] > xstest["0.3"]["fpr"]


def test_xstest_intervals_hold_their_rates(xstest):
    for rates in (xstest["0.5"], xstest["0.5"]["prompts_alone"]):
        for name in ("fpr", "detection"):
            lower, upper = rates[f"{name}_interval"]
            assert 0 <= lower <= rates[name] <= upper <= 1
            assert lower < upper
    assert xstest["0.3"]["detection_interval"] == (1, 1)


@pytest.fixture(scope="module")
def other_domains():
    risks = {
        "x": {True: [0.1, 0.2, 0.3, 0.4, 0.6], False: [0.5, 0.9, 0.35]},
        "y": {True: [0.7], False: [0.8, 0.25]},
    }
    rows = [
        {"prompt": f"{source}{risk}", "response": "r", "is_safe": safe, "source": source, "risk": risk}
        for source, kinds in risks.items()
        for safe, values in kinds.items()
        for risk in values
    ]
    detector = KnownDetector({(row["prompt"], "r"): row["risk"] for row in rows})
    return other_domains_report(detector, Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (
            "x",  # the 80 % quantile of the safe scores is 0.44
            {"n": 8, "harmful": 3, "f1": 2 / 5, "auprc": (1 + 2 / 3 + 3 / 5) / 3, "recall": 1 / 3, "fpr": 1 / 5}
            | {"recall_at_fpr_0.2": 2 / 3},
        ),
        (
            "y",
            {"n": 3, "harmful": 2, "f1": 2 / 4, "auprc": (1 + 2 / 3) / 2, "recall": 1 / 2, "fpr": 1}
            | {"recall_at_fpr_0.2": 1 / 2},
        ),
        (
            "all",  # the 80 % quantile of the safe scores is 0.6
            {"n": 11, "harmful": 5, "f1": 4 / 9, "auprc": (1 + 1 + 3 / 5 + 4 / 7 + 5 / 9) / 5, "recall": 2 / 5}
            | {"fpr": 2 / 6, "recall_at_fpr_0.2": 2 / 5},
        ),
    ],
)
def test_other_domains_agree_with_those_by_hand(other_domains, group, expected):
    assert other_domains[group] == pytest.approx(expected)


def test_other_domains_report_each_source(other_domains):
    assert set(other_domains) == {"protocol", "all", "x", "y"}


def test_the_reports_fill_every_section_and_survive_json(beavertails, xstest, other_domains):
    report = {"beavertails": beavertails, "xstest": xstest, "other_domains": other_domains}
    markdown = detection_markdown(json.loads(json.dumps(report | {"parameters": 22_700_000})))
    headings = [line for line in markdown.splitlines() if line.startswith("#")]
    assert headings == [
        "# Detection",
        "## BeaverTails test split (5 pairs, 3 harmful)",
        "### By category",
        "### Uncertainty",
        "## XSTest",
        "### FPR by kind of prompt",
        "## Other domains",
    ]
    assert "nan" not in markdown


class HostileWords(KnownDetector):
    """Finds a pair risky by one word of its response, as a crude detector would."""

    def __init__(self, words):
        super().__init__({})
        self.words = words

    def assess(self, prompts, responses=None):
        texts = prompts if responses is None else responses
        risks = [0.9 if any(word in text for word in self.words) else 0.1 for text in texts]
        return [Assessment({"theft": risk, "violence": 0.05}) for risk in risks]


def test_the_projects_own_files_are_scored_from_end_to_end():
    detector = HostileWords(["hit him", "attack", "Threaten", "darkest"])
    prompts = load_xstest_prompts(str(DATA / "xstest_prompts.csv"))
    report = xstest_report(detector, prompts, load_xstest_completions(str(DATA / "xstest_completions.csv"), prompts))
    assert (report["n_safe"], report["n_harmful"]) == (24, 5)
    assert (report["0.5"]["fpr"], report["0.5"]["detection"]) == (0, 4 / 5)
    others = other_domains_report(HostileWords(["hell", "Burn", "hit"]), load_pairs(str(DATA / "other_pairs.jsonl")))
    assert (others["forum"]["recall"], others["assistant"]["recall"]) == pytest.approx((2 / 3, 1 / 5))
    assert np.isclose(others["all"]["recall"], 3 / 8)
