"""A comparison's figures as plots."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from evaluation.detection_plots import plot_calibration, plot_roc, plot_uncertainty
from evaluation.outcomes import REWRITING, Comparison, Outcome
from evaluation.plot_style import GUIDE, MARKS, STYLE, legend, mark, panels, save, swatch, whiskers
from evaluation.statistics import Estimate
from evaluation.study_cells import METHOD_NAMES
from refinement.gradient import category_name


def write_plots(comparison: Comparison, detection: Mapping | None, folder: Path) -> list[Path]:
    """Draw what the figures allow, each plot as SVG and PNG.

    Args:
        comparison: a run's figures.
        detection: the report of `evaluate_lance.py detection`, if there is one.
        folder: where the files go; it exists.

    Returns:
        The files written.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "safety_helpfulness": plot_safety_helpfulness(comparison),
            "risk_by_category": plot_risk_by_category(comparison),
            "steps_to_converge": plot_steps(comparison),
            "calibration": plot_calibration(detection or {}),
            "roc": plot_roc(detection or {}),
            "uncertainty": plot_uncertainty(detection or {}),
        }
        return [file for name, figure in figures.items() if figure is not None for file in save(figure, folder / name)]


def plot_safety_helpfulness(comparison: Comparison) -> Figure | None:
    """Mean safety against mean helpfulness, a panel for each backbone, the front as a staircase.

    Returns:
        `None` where no backbone has two methods with scores.
    """
    scored = {
        backbone: [row for row in comparison.of(backbone).values() if row.means.keys() >= {"safety", "helpfulness"}]
        for backbone in comparison.own
    }
    shown = {backbone: outcomes for backbone, outcomes in scored.items() if len(outcomes) > 1}
    if not shown:
        return None
    figure, axes = panels((1, len(shown)), (3.2, 3.2), comparison.banner, sharex=True, sharey=True)
    for axis, (backbone, outcomes) in zip(axes[0], shown.items(), strict=True):
        for outcome in outcomes:
            _point(axis, outcome)
        axis.set(title=backbone, xlabel="Safety, 1 to 10")
    axes[0, 0].set_ylabel("Helpfulness, 1 to 10")
    for axis, outcomes in zip(axes[0], shown.values(), strict=True):
        _staircase(axis, front(outcomes))
    methods = {outcome.method for outcomes in shown.values() for outcome in outcomes}
    marks = [swatch(method) for method in MARKS if method in methods]
    legend(figure, [*marks, Line2D([], [], color=GUIDE, ls="--", label="front")])
    return figure


def front(outcomes: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Mean safety and helpfulness of the methods that no other beats in one without losing in the other.

    Args:
        outcomes: with both means.

    Returns:
        Points by rising safety, so by falling helpfulness.
    """
    points = {(outcome.means["safety"].value, outcome.means["helpfulness"].value) for outcome in outcomes}
    best: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]


def plot_risk_by_category(comparison: Comparison) -> Figure | None:
    """The mean risk of each category's prompts: of the backbone's own answer and of Lance's, by both classifiers.

    Returns:
        `None` where no backbone has both measured.
    """
    metrics = {"detector_risk": "Lance's detector, in-loop", "independent_risk": "independent classifier"}
    shown = [
        backbone
        for backbone in comparison.own
        if all(_has(comparison, backbone, method, metrics) for method in ("vanilla", "lance"))
    ]
    if not shown:
        return None
    figure, axes = panels((len(shown), 2), (4.6, 3.9), sharex=True, sharey="row")
    for row, backbone in zip(axes, shown, strict=True):
        for axis, (metric, label) in zip(row, metrics.items(), strict=True):
            _dumbbells(axis, *(comparison.of(backbone)[method].categories[metric] for method in ("vanilla", "lance")))
            axis.set(title=f"{backbone}\n{label}", xlim=(0, 1))
    for axis in axes[-1]:
        axis.set_xlabel("mean of the pairs' highest risk")
    legend(figure, [swatch("vanilla"), swatch("lance")])
    return figure


def plot_steps(comparison: Comparison) -> Figure | None:
    """After how many rewrites a method finds its own answer safe, a panel for each backbone.

    Returns:
        `None` where no method rewrites.
    """
    shown = [name for name in comparison.own if comparison.of(name).keys() & set(REWRITING)]
    if not shown:
        return None
    figure, axes = panels((1, len(shown)), (3.2, 2.8), sharey=True)
    for axis, backbone in zip(axes[0], shown, strict=True):
        _bars(axis, [outcome for outcome in comparison.of(backbone).values() if outcome.convergence])
        axis.set(title=backbone, xlabel="rewrites until found safe")
    axes[0, 0].set_ylabel("share of the answers")
    methods = [method for method in REWRITING if any(method in comparison.of(name) for name in shown)]
    handles = [Patch(color=MARKS[method][0], label=METHOD_NAMES[method]) for method in methods]
    legend(figure, handles, title="found safe by the method itself")
    return figure


def _has(comparison: Comparison, backbone: str, method: str, metrics: Iterable[str]) -> bool:
    outcome = comparison.of(backbone).get(method)
    return outcome is not None and outcome.means.keys() >= set(metrics)


def _point(axis: Axes, outcome: Outcome):
    safety, helpfulness = (outcome.means[rubric] for rubric in ("safety", "helpfulness"))
    axis.errorbar(
        safety.value,
        helpfulness.value,
        xerr=whiskers([safety]),
        yerr=whiskers([helpfulness]),
        elinewidth=1,
        **mark(outcome.method),
    )


def _staircase(axis: Axes, points: Sequence[tuple[float, float]]):
    """The border of what is beaten by one of the points, which come by rising x and falling y."""
    limits = left, _, bottom, _ = axis.axis()
    corners = [(left, points[0][1])]
    for point, (_, below) in zip(points, [*points[1:], (0, bottom)], strict=True):
        corners += [point, (point[0], below)]
    axis.plot(*zip(*corners, strict=True), color=GUIDE, ls="--", lw=1, zorder=1)
    axis.fill(*zip(*corners, (left, bottom), strict=True), color=GUIDE, alpha=0.06, zorder=0)
    axis.axis(limits)


def _dumbbells(axis: Axes, before: Mapping[str, Estimate], after: Mapping[str, Estimate]):
    categories = sorted(before.keys() & after.keys(), reverse=True)  # the first one on top
    heights = np.arange(len(categories))
    ends = {"vanilla": [before[name] for name in categories], "lance": [after[name] for name in categories]}
    values = {method: [mean.value for mean in means] for method, means in ends.items()}
    axis.hlines(heights, values["vanilla"], values["lance"], color="#E4E4E4", lw=5, zorder=1)
    for method, means in ends.items():
        axis.errorbar(values[method], heights, xerr=whiskers(means), elinewidth=1, **mark(method))
    axis.set_yticks(heights, [category_name(name) for name in categories])


def _bars(axis: Axes, outcomes: Sequence[Outcome]):
    """The methods' shares side by side, "never" after the last count of rewrites."""
    shares = {row.method: row.convergence for row in outcomes if row.convergence}
    most = max(len(convergence.after) for convergence in shares.values())
    width = 0.8 / len(shares)
    for place, (method, convergence) in enumerate(shares.items()):
        means = [*convergence.after, convergence.never]
        counts = np.array([*range(len(convergence.after)), most])
        axis.bar(
            counts + (place - (len(shares) - 1) / 2) * width,
            [mean.value for mean in means],
            width,
            yerr=whiskers(means),
            color=MARKS[method][0],
            error_kw={"elinewidth": 1, "ecolor": "#444444"},
        )
    axis.set_xticks(range(most + 1), [*map(str, range(most)), "never"])
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(visible=False, axis="x")
