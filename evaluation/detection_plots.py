"""The curves of a detection report as plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from evaluation.plot_style import GUIDE, MARKS, legend, panels, whiskers
from evaluation.published import PAPER_TABLE_3
from evaluation.statistics import Estimate

SETS = {"beavertails": "BeaverTails", "xstest": "XSTest"}
OURS = MARKS["lance"][0]
ESTIMATE: dict[str, Any] = {"color": OURS, "marker": "o", "ms": 4, "elinewidth": 1}
SHAPES = dict(zip(PAPER_TABLE_3, "os^", strict=True))  # by threshold


def plot_calibration(detection: Mapping) -> Figure | None:
    """How often pairs are harmful by their highest risk, with how many pairs there are, a panel for each set.

    Args:
        detection: the report of `evaluate_lance.py detection`.

    Returns:
        `None` where it holds no calibration curve.
    """
    shown = {name: detection[name]["calibration"] for name in SETS if "calibration" in detection.get(name, {})}
    if not shown:
        return None
    figure, axes = panels((2, len(shown)), (3.4, 2.0), sharex=True, sharey="row", height_ratios=(3, 1))
    for (curve, counts), (name, bins) in zip(axes.T, shown.items(), strict=True):
        _reliability(curve, bins)
        counts.bar([row["risk"] for row in bins], [row["n"] for row in bins], 0.07, color=GUIDE)
        curve.set_title(SETS[name])
        counts.set_xlabel("highest risk of the pair")
    axes[0, 0].set_ylabel("harmful pairs")
    axes[1, 0].set_ylabel("pairs")
    return figure


def plot_uncertainty(detection: Mapping) -> Figure | None:
    """How often a pair's flag is wrong by the spread of its riskiest category, on BeaverTails.

    Args:
        detection: the report of `evaluate_lance.py detection`.

    Returns:
        `None` where it holds no errors by spread.
    """
    if "uncertainty" not in detection.get("beavertails", {}):
        return None
    groups = detection["beavertails"]["uncertainty"]["groups"]
    figure, axes = panels((1, 1), (3.4, 2.4))
    axis = axes[0, 0]
    axis.errorbar(
        [row["spread"] for row in groups],
        [row["errors"] for row in groups],
        yerr=_reach(groups, "errors"),
        **ESTIMATE,
    )
    axis.set(xlabel="standard deviation of the riskiest category's Beta", ylabel="wrong flags", ylim=(0, None))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def plot_roc(detection: Mapping) -> Figure | None:
    """Detection against false alarms, with the thresholds marked and the paper's three points, a panel for each set.

    Args:
        detection: the report of `evaluate_lance.py detection`.

    Returns:
        `None` where it holds no such curve.
    """
    shown = {name: detection[name]["roc"] for name in SETS if "roc" in detection.get(name, {})}
    if not shown:
        return None
    figure, axes = panels((1, len(shown)), (3.4, 3.4), sharex=True, sharey=True)
    for axis, (name, curve) in zip(axes[0], shown.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=GUIDE, ls="--", lw=1)
        axis.plot(curve["fpr"], curve["detection"], color=OURS)
        _thresholds(axis, curve["thresholds"], OURS)
        if name == "xstest":
            paper = {threshold: [rate / 100 for rate in rates] for threshold, rates in PAPER_TABLE_3.items()}
            _thresholds(axis, paper, "white")
        axis.set(title=f"{SETS[name]}, AUC {curve['auc']:.3f}", xlabel="false alarms", aspect="equal")
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axes[0, 0].set_ylabel("detection")
    handles = [Line2D([], [], label=f"τ = {threshold}", **_dot(threshold, OURS)) for threshold in SHAPES]
    if "xstest" in shown:
        handles.append(Line2D([], [], label="the paper's", **_dot("0.3", "white")))
    legend(figure, handles)
    return figure


def _reliability(axis: Axes, bins: Sequence[Mapping]):
    risk, harmful = ([row[name] for row in bins] for name in ("risk", "harmful"))
    axis.plot([0, 1], [0, 1], color=GUIDE, ls="--", lw=1)
    axis.errorbar(risk, harmful, yerr=_reach(bins, "harmful"), **ESTIMATE)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))


def _reach(rows: Sequence[Mapping], name: str) -> np.ndarray:
    """How far the rows' intervals reach below and above a figure of theirs, of shape `(2, rows)`."""
    return whiskers([Estimate(row[name], tuple(row["interval"]), row["n"]) for row in rows])


def _thresholds(axis: Axes, points: Mapping[str, Sequence[float]], color: str):
    for threshold, (fpr, detection) in points.items():
        axis.plot(fpr, detection, **_dot(threshold, color))


def _dot(threshold: str, color: str) -> dict[str, Any]:
    return {"marker": SHAPES[threshold], "ms": 6, "ls": "", "mec": OURS, "mfc": color}
