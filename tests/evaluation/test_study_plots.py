import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.comparison import compare
from evaluation.outcomes import BANNER, Cost, Counts, Outcome
from evaluation.plot_style import MARKS, STYLE, whiskers
from evaluation.statistics import Estimate
from evaluation.study import METHODS
from evaluation.study_cells import METHOD_NAMES
from evaluation.study_plots import (
    front,
    plot_risk_by_category,
    plot_safety_helpfulness,
    plot_steps,
    write_plots,
)
from tests.evaluation.study_runs import JUDGE, answer, backbone, measure, run_of, score, scored_run

CURVES = {
    "roc": {"fpr": [0, 0.5, 1], "detection": [0, 0.8, 1], "auc": 0.7, "thresholds": {"0.3": [0.5, 0.8]}},
    "calibration": [{"n": 4, "risk": 0.2, "harmful": 0.25, "interval": [0.1, 0.6]}],
    "uncertainty": {"groups": [{"spread": 0.1, "n": 4, "errors": 0.25, "interval": [0.1, 0.6]}]},
}


def study(judge=JUDGE, **fields):
    """Two methods on a backbone, with all figures."""
    of = [answer(method, sample, converged=True) for method in ("vanilla", "lance") for sample in range(6)]
    scores = [
        score(a, rubric, (3 if a["method"] == "vanilla" else 7) + a["sample"] % 3, judge)
        for a in of
        for rubric in ("safety", "helpfulness")
    ]
    measures = [measure(a, independent_risk=0.8 if a["method"] == "vanilla" else 0.2) for a in of]
    return compare(run_of(of, scores, measures, judges=(judge,), **fields))


def outcome(safety, helpfulness):
    means = {"safety": Estimate(safety, None, 1), "helpfulness": Estimate(helpfulness, None, 1)}
    return Outcome("A", "vanilla", Counts("A", "vanilla", 1, 0, {}, 0, {}, {}, 0), means, {}, Cost({}, {}, 0, 0), None)


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_plot_is_written_as_svg_and_png(tmp_path):
    written = write_plots(study(), {"beavertails": CURVES}, tmp_path)
    names = ("calibration", "risk_by_category", "roc", "safety_helpfulness", "steps_to_converge", "uncertainty")
    assert names_in(tmp_path) == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert sorted(path.name for path in written) == names_in(tmp_path)
    assert (tmp_path / "roc.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_only_what_there_are_figures_for_is_drawn(tmp_path):
    assert write_plots(compare(scored_run({("A", "vanilla"): [2, 4]})), None, tmp_path) == []
    assert names_in(tmp_path) == []


def test_the_same_figures_give_the_same_bytes(tmp_path):
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        write_plots(study(), {"xstest": CURVES}, folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_the_callers_style_is_left_as_it_was(tmp_path):
    before = {name: matplotlib.rcParams[name] for name in STYLE}
    write_plots(study(), None, tmp_path)
    assert {name: matplotlib.rcParams[name] for name in STYLE} == before


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path):
    columns = {(r"$\broken$", method): [2, 4] for method in ("vanilla", "lance")}
    assert write_plots(compare(scored_run(columns, backbones=[backbone(r"$\broken$")])), None, tmp_path)


def test_every_method_has_a_name_a_colour_and_a_shape():
    assert {*MARKS} == {*METHOD_NAMES} == {*METHODS}
    colors, shapes = zip(*MARKS.values(), strict=True)
    assert len(set(colors)) == len(set(shapes)) == len(METHODS)


def test_safety_stands_against_helpfulness_backbone_by_backbone():
    columns = {(name, method): [2, 4] for name in ("A", "B") for method in ("vanilla", "lance")}
    columns["Alone", "vanilla"] = [5, 5]
    figure = plot_safety_helpfulness(compare(scored_run(columns, backbones=map(backbone, ("B", "A", "Alone")))))
    assert titles(figure) == ["B", "A"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Vanilla", "Lance", "front"]


@pytest.mark.parametrize("judge", ["embedded", JUDGE])
def test_the_banner_stands_over_judged_plots_alone(judge):
    figure = plot_safety_helpfulness(study(judge))
    assert (" ".join(figure.get_suptitle().split()) == BANNER) == (judge == "embedded")
    assert plot_risk_by_category(study(judge)).get_suptitle() == ""


points = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=8)


@given(points)
def test_the_front_is_what_no_other_method_beats(scores):
    best = front([outcome(*pair) for pair in scores])
    beaten = {
        pair for pair in scores for other in scores if other != pair and other[0] >= pair[0] and other[1] >= pair[1]
    }
    assert {*best} == {*scores} - beaten
    assert best == sorted(best)


def test_risk_falls_from_the_backbones_own_answer_to_lances():
    figure = plot_risk_by_category(study())
    assert titles(figure) == ["A\nLance's detector, in-loop", "A\nindependent classifier"]
    independent = figure.axes[1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["violence", "theft"]
    assert [line.get_xdata().tolist() for line in independent.lines] == [pytest.approx([v] * 2) for v in (0.8, 0.2)]


def rewritten(times):
    return [{"prompt": f"Rewrite {place}?", "response": "A short answer."} for place in range(times + 1)]


def test_steps_are_bars_of_shares_with_never_last():
    of = [answer("lance", place, steps=rewritten(n), converged=n < 2) for place, n in enumerate((0, 0, 1, 2))]
    (axis,) = plot_steps(compare(run_of(of))).axes
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.25, 0, 0.25]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "2", "never"]


def test_never_stands_in_one_place_for_all_methods():
    of = [answer("lance", 0, steps=rewritten(3), converged=False), answer("selfrefine", 0, converged=False)]
    (axis,) = plot_steps(compare(run_of(of))).axes
    never = [bar for bar in axis.patches if bar.get_height() == 1]
    assert len(never) == 2
    assert {round(bar.get_x() + bar.get_width() / 2) for bar in never} == {4}


def test_whiskers_reach_to_the_bounds():
    reach = whiskers([Estimate(5, (4, 7), 3), Estimate(2, None, 1)])
    assert reach.tolist() == [[1, 0], [2, 0]]
