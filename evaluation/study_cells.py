"""How a study's names and figures are written in its tables and plots."""

from collections.abc import Mapping, Sequence

from evaluation.formats import Cell, Figure
from evaluation.outcomes import RUBRICS, Comparison, Counts, Outcome
from evaluation.statistics import Estimate

METHOD_NAMES = {
    "vanilla": "Vanilla",
    "repe": "RepE",
    "sysprompt": "SysPrompt",
    "selfrefine": "SelfRefine",
    "instruct": "Instruct",
    "lance": "Lance",
    "lance-nr": "Lance-nr",
    "lance-nf": "Lance-nf",
}
METRIC_NAMES = {
    "safety": "Safety",
    "helpfulness": "Helpfulness",
    "naturalness": "Naturalness",
    "detector_risk": "In-loop risk",
    "independent_risk": "Independent risk",
    "independent_risk_as_asked": "Independent risk, as asked",
    "answer_similarity": "Answer similarity",
    "rigid_refusal": "Rigid refusals %",
}
INTERVALS = "Means over the prompts, with 95 % bootstrap intervals clustered by category."
MEASURES_NOTE = (
    "No judge is asked. In-loop risk: the highest category risk of the final pair by Lance's own detector, which Lance "
    "optimises: no evidence of its success. Independent risk: of the same pair, by a classifier that the loop doesn't "
    "know; as asked, of the answer with the user's own prompt, since a milder rewritten prompt by itself lowers its "
    "pair's risk. Answer similarity: cosine of the answer to the user's question. Rigid refusals: answers that give "
    "nothing of what was asked, told by the detector that Lance heeds in its loop, and so in-loop for Lance too."
)
REPLACED_NOTE = "Replaced: answers in whose place Lance's constructive reply stands, as no safe one was found."


def judged_note(comparison: Comparison) -> str:
    """Who judged."""
    return f"Judge: {comparison.judges[0]}; scores from 1 to 10." if comparison.judges else "There are no scores."


def identity(row: Outcome | Counts) -> list[Cell]:
    """Backbone and method."""
    return [row.backbone, METHOD_NAMES[row.method]]


def cell(metric: str, mean: Estimate | None, sign: str = "") -> Cell:
    """A metric's mean; `None` where there is none.

    Args:
        metric: says the unit: points of 1 to 10, per cent, or a share of 1.
        mean: the figure.
        sign: "+" for one that always shows its sign.
    """
    if mean is None:
        return None
    scale, digits = {"rigid_refusal": (100, 1)}.get(metric, (1, 2 if metric in RUBRICS else 3))
    bounds = mean.interval and (scale * mean.interval[0], scale * mean.interval[1])
    return Figure(scale * mean.value, bounds, f"{sign}z.{digits}f")


def score_header() -> list[str]:
    """Each rubric, and the paper's figure beside it."""
    return [name for rubric in RUBRICS for name in (METRIC_NAMES[rubric], f"{METRIC_NAMES[rubric]} (paper)")]


def scores(means: Mapping[str, Estimate], paper: Sequence[float] | None) -> list[Cell]:
    """Our mean score and the paper's by rubric.

    Args:
        means: ours, of the rubrics that were scored.
        paper: its three figures, if it has them.
    """
    published = [None] * len(RUBRICS) if paper is None else [Figure(value) for value in paper]
    ours = [cell(rubric, means.get(rubric)) for rubric in RUBRICS]
    return [figure for pair in zip(ours, published, strict=True) for figure in pair]
