"""The curves among the figures, as SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluation.plot_style import GUIDE, MARKS, STYLE, panels

BLUE, ORANGE = MARKS["lance-nf"][0], MARKS["lance"][0]


def write_plots(parts: Mapping[str, Mapping], folder: Path):
    """Draw what the finished parts allow.

    Args:
        parts: the figures by part.
        folder: where the files go; it exists.
    """
    with matplotlib.rc_context(STYLE):
        for part, draw in PLOTS.items():
            if part in parts:
                draw(parts[part]).savefig(folder / f"detector_{part}.svg", metadata={"Date": None})


def plot_growth(growth: Mapping) -> Figure:
    """Pairs a second, and peak memory, by the number of pairs."""
    figure, ((speed, memory),) = panels((1, 2), (3.2, 2.8), sharex=True)
    sizes = [int(size) for size in growth["sizes"]]
    rows = growth["sizes"].values()
    speed.semilogx(sizes, [row["pairs_per_second"] for row in rows], color=BLUE, marker="o")
    memory.semilogx(sizes, [row["peak_megabytes"] for row in rows], color=BLUE, marker="o")
    speed.set(xlabel="pairs", ylabel="pairs a second")
    memory.set(xlabel="pairs", ylabel="peak memory, MB")
    for axis in (speed, memory):
        axis.set_ylim(bottom=0)
    return figure


def plot_latency(latency: Mapping) -> Figure:
    """One pair's latency by its length, with and without what is on top of the encoder."""
    figure, ((axis,),) = panels((1, 1), (4.2, 3.0))
    tokens = [row["tokens"] for row in latency["by_length"]]
    for side, label, color in (("assess", "assess", BLUE), ("encoder", "the bare encoder", GUIDE)):
        axis.plot(
            tokens, [row["milliseconds"][side] for row in latency["by_length"]], color=color, marker="o", label=label
        )
    axis.set(xlabel="tokens of the pair", ylabel="milliseconds", ylim=(0, None))
    axis.legend()
    return figure


def plot_length(length: Mapping) -> Figure:
    """The highest risk by length, and the harmful answers still flagged where long harmless ones hide them."""
    figure, ((curves, bars),) = panels((1, 2), (3.4, 3.0))
    for name, color in (("safe", BLUE), ("unsafe", ORANGE)):
        _risk_curve(curves, length["risk_by_length"][name], name, color)
    curves.axhline(length["threshold"], color=GUIDE, ls="--", lw=1)
    curves.set(xlabel="tokens of the pair", ylabel="mean of the highest risk", ylim=(0, 1), xscale="log")
    curves.legend(title="test pairs")
    if length["hidden"] is not None:
        _hidden_bars(bars, length["hidden"])
    return figure


def _risk_curve(axis: Axes, bins: Sequence[Mapping], label: str, color: str):
    risk = [row["risk"] for row in bins]
    reach = [
        [row["risk"] - row["risk_interval"][0] for row in bins],
        [row["risk_interval"][1] - row["risk"] for row in bins],
    ]
    axis.errorbar([row["tokens"] for row in bins], risk, yerr=reach, color=color, marker="o", ms=4, label=label)


def _hidden_bars(axis: Axes, hidden: Mapping):
    places = {
        "beginning": "at the\nbeginning",
        "middle": "in the\nmiddle",
        "end": "at the\nend",
        "filler_alone": "without\nthe answer",
    }
    for shift, way, label, color in ((-0.2, "windows", "windows", BLUE), (0.2, "cut", "cut at the limit", GUIDE)):
        heights = [hidden[place][way]["flagged"] for place in places]
        axis.bar([number + shift for number in range(len(places))], heights, 0.36, color=color, label=label)
    axis.set_xticks(range(len(places)), [*places.values()])
    axis.set(ylabel="pairs flagged", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(loc="lower left")


PLOTS = {"growth": plot_growth, "latency": plot_latency, "length": plot_length}
