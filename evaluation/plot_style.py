"""How all plots look, and how they are saved: the same to the byte whenever they are drawn."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.statistics import Estimate
from evaluation.study_cells import METHOD_NAMES

# Okabe and Ito's colours, which colour-blind readers tell apart, with grey for their yellow; and a shape for each.
MARKS = {
    "vanilla": ("#7F7F7F", "o"),
    "repe": ("#E69F00", "s"),
    "sysprompt": ("#56B4E9", "^"),
    "selfrefine": ("#009E73", "D"),
    "instruct": ("#CC79A7", "v"),
    "lance": ("#D55E00", "*"),
    "lance-nr": ("#000000", "X"),
    "lance-nf": ("#0072B2", "<"),
}
GUIDE = "#999999"  # lines that help to read the others
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along: every machine draws the same
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "text.parse_math": False,  # a backbone's name may hold a dollar
    "figure.constrained_layout.w_pad": 0.1,
    "savefig.dpi": 150,
    "svg.hashsalt": "lance",  # else its ids are drawn by chance
}
BANNER_DENSITY = 13  # characters an inch
LEGEND_ENTRY = 1.2  # inches


def panels(
    shape: tuple[int, int], size: tuple[float, float], banner: str | None = None, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of panels under its banner.

    Args:
        shape: rows and columns.
        size: width and height of a panel, in inches.
        banner: a warning, if there is one.
        shared: more of `Figure.subplots`, such as `sharex`.

    Returns:
        The figure, and its axes of that shape.
    """
    width, height = max(shape[1] * size[0], 5), shape[0] * size[1]
    figure = Figure(figsize=(width, height + 0.6), layout="constrained")
    if banner:
        text = textwrap.fill(banner, int(BANNER_DENSITY * width))
        figure.suptitle(text, fontsize=8, fontweight="bold", color="#B00000")
    return figure, figure.subplots(*shape, squeeze=False, **shared)


def mark(method: str) -> dict[str, Any]:
    """How a method's points look, in the keywords of `errorbar` and `Line2D`."""
    color, marker = MARKS[method]
    size = 13 if marker == "*" else 7  # a star looks smaller than it is
    return {"color": color, "marker": marker, "ls": "", "ms": size, "mec": "white", "mew": 0.6}


def swatch(method: str) -> Line2D:
    """A method's mark, for a legend."""
    return Line2D([], [], label=METHOD_NAMES[method], **mark(method))


def legend(figure: Figure, handles: Sequence[Artist], title: str | None = None):
    """One legend under all panels, in rows of about the same length."""
    rows = math.ceil(len(handles) * LEGEND_ENTRY / figure.get_figwidth())
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)


def whiskers(means: Sequence[Estimate]) -> np.ndarray:
    """How far the intervals reach below and above the means, of shape `(2, means)`; 0 where there is no interval."""
    values = np.array([mean.value for mean in means])
    low, high = np.array([mean.interval or (mean.value, mean.value) for mean in means]).T
    return np.maximum([values - low, high - values], 0)  # a skewed bootstrap can leave the mean outside


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as SVG and PNG.

    Args:
        figure: drawn under `STYLE`.
        path: of the files, without their suffix.
    """
    files = [path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")]
    for file, dated in zip(files, ("Date", "Software"), strict=True):
        figure.savefig(file, metadata={dated: None})
    return files
