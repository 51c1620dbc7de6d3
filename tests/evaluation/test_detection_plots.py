import pytest

from evaluation.detection_plots import plot_calibration, plot_roc, plot_uncertainty
from evaluation.published import PAPER_TABLE_3

ROC = {
    "fpr": [0, 0.5, 1],
    "detection": [0, 0.8, 1],
    "auc": 0.65,
    "thresholds": {"0.3": [0.5, 0.8], "0.5": [0.25, 0.4], "0.7": [0, 0]},
}
BINS = [
    {"n": 4, "risk": 0.2, "harmful": 0.25, "interval": [0.1, 0.6]},
    {"n": 6, "risk": 0.7, "harmful": 0.5, "interval": [0.2, 0.8]},
]


def dots(axis):
    return [tuple(*line.get_xydata().tolist()) for line in axis.lines if len(line.get_xdata()) == 1]


def test_the_roc_marks_the_thresholds():
    (axis,) = plot_roc({"beavertails": {"roc": ROC}}).axes
    assert axis.get_title() == "BeaverTails, AUC 0.650"
    assert dots(axis) == [(0.5, 0.8), (0.25, 0.4), (0, 0)]


def test_the_papers_points_stand_on_xstest_alone():
    figure = plot_roc({"beavertails": {"roc": ROC}, "xstest": {"roc": ROC}})
    beavertails, xstest = figure.axes
    paper = [tuple(rate / 100 for rate in rates) for rates in PAPER_TABLE_3.values()]
    assert dots(xstest) == dots(beavertails) + [pytest.approx(point) for point in paper]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "τ = 0.3",
        "τ = 0.5",
        "τ = 0.7",
        "the paper's",
    ]


def test_calibration_shows_the_share_of_harm_and_how_many_pairs():
    curve, counts = plot_calibration({"beavertails": {"calibration": BINS}}).axes
    assert curve.get_title() == "BeaverTails"
    assert curve.lines[1].get_xydata().tolist() == [[0.2, 0.25], [0.7, 0.5]]
    assert [bar.get_height() for bar in counts.patches] == [4, 6]


def test_errors_rise_or_fall_with_the_spread():
    groups = [
        {"spread": 0.1, "n": 5, "errors": 0.2, "interval": [0.05, 0.6]},
        {"spread": 0.2, "n": 5, "errors": 0.4, "interval": [0.1, 0.8]},
    ]
    (axis,) = plot_uncertainty({"beavertails": {"uncertainty": {"groups": groups}}}).axes
    assert axis.lines[0].get_xydata().tolist() == [[0.1, 0.2], [0.2, 0.4]]


def test_without_curves_there_is_no_plot():
    assert plot_uncertainty({"beavertails": {"n": 3}}) is None
    assert plot_roc({"beavertails": {"n": 3}}) is None
    assert plot_calibration({}) is None
