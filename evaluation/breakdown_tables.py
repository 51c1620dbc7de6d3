"""The tables beyond the paper's: what needs no judge, differences with tests, categories, costs, counts, agreement."""

from collections.abc import Sequence

from evaluation.formats import Cell, Figure, Table
from evaluation.outcomes import MEASURES, RUBRICS, Comparison
from evaluation.study_cells import (
    INTERVALS,
    MEASURES_NOTE,
    METHOD_NAMES,
    METRIC_NAMES,
    REPLACED_NOTE,
    cell,
    identity,
    judged_note,
)
from refinement.gradient import category_name


def breakdown_tables(comparison: Comparison) -> list[Table]:
    """All of them that the figures allow."""
    tables = [
        judge_free_table(comparison),
        difference_table(comparison, RUBRICS),
        difference_table(comparison, MEASURES),
        *(category_table(comparison, metric) for metric in METRIC_NAMES),
        cost_table(comparison),
        count_table(comparison),
        failure_table(comparison),
        agreement_table(comparison),
    ]
    return [table for table in tables if table.rows]


def judge_free_table(comparison: Comparison) -> Table:
    """What is measured without a judge."""
    rows = [
        [*identity(outcome), *(cell(metric, outcome.means.get(metric)) for metric in MEASURES), outcome.counts.answered]
        for outcome in comparison.outcomes
    ]
    header = ["Backbone", "Method", *(METRIC_NAMES[metric] for metric in MEASURES), "Answers"]
    return Table("judge_free", "Without a judge", f"{INTERVALS} {MEASURES_NOTE}", header, rows)


def difference_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """Lance against each other method on the same prompts.

    Args:
        comparison: a run's figures.
        metrics: `RUBRICS` or `MEASURES`.
    """
    rows: list[list[Cell]] = [
        [
            *(row.backbone, METRIC_NAMES[row.metric], METHOD_NAMES[row.method]),
            cell(row.metric, row.mean, sign="+"),
            row.mean.n,
            *(Figure(p, spec=".4f") for p in (row.p, row.adjusted)),
        ]
        for row in comparison.differences
        if row.metric in metrics
    ]
    note = (
        "Lance's figure less the other method's, on the prompts that have both: the mean with its 95 % bootstrap "
        "interval, clustered by category; p of a paired sign-flip test, and after Holm over a metric's methods on a "
        "backbone. The interval speaks of other categories too, the test of these alone."
    )
    header = ["Backbone", "Metric", "Against", "Difference", "n", "p", "p (Holm)"]
    title = "Lance against each method"
    if metrics == RUBRICS:
        note = f"{note} {judged_note(comparison)}"
        return Table("differences_judged", f"{title}, judged", note, header, rows, comparison.banner)
    return Table("differences_judge_free", f"{title}, without a judge", f"{note} {MEASURES_NOTE}", header, rows)


def category_table(comparison: Comparison, metric: str) -> Table:
    """A metric by category of prompts, the methods side by side."""
    methods = list(dict.fromkeys(outcome.method for outcome in comparison.outcomes))
    rows: list[list[Cell]] = []
    for backbone in comparison.own:  # a commercial one has a single method
        found = {method: outcome.categories.get(metric, {}) for method, outcome in comparison.of(backbone).items()}
        rows += [
            [
                *(backbone, category_name(category)),
                *(cell(metric, found.get(method, {}).get(category)) for method in methods),
            ]
            for category in sorted({category for figures in found.values() for category in figures})
        ]
    judged = metric in RUBRICS
    note = "Means over a category's prompts, with 95 % bootstrap intervals."
    return Table(
        f"categories_{metric}",
        f"{METRIC_NAMES[metric]} by category",
        f"{note} {judged_note(comparison) if judged else MEASURES_NOTE}",
        ["Backbone", "Category", *(METHOD_NAMES[method] for method in methods)],
        rows,
        comparison.banner if judged else None,
    )


def cost_table(comparison: Comparison) -> Table:
    """What an answer takes."""
    roles = list(dict.fromkeys(role for outcome in comparison.outcomes for role in outcome.cost.calls))
    kinds = {"prompt": "Tokens read", "completion": "Tokens written"}
    rows: list[list[Cell]] = [
        [
            *identity(outcome),
            *(Figure(outcome.cost.calls.get(role, 0.0)) for role in roles),
            *(Figure(outcome.cost.tokens.get(kind, 0.0), spec=",.0f") for kind in kinds),
            Figure(outcome.cost.seconds),
            Figure(outcome.cost.words, spec=",.0f"),
        ]
        for outcome in comparison.outcomes
    ]
    note = (
        "Means over the answers. Seconds: from a prompt's first call until its answer, which prompts of one batch "
        "share, or since the restart that it went on after. Words: the answer's length."
    )
    header = ["Backbone", "Method", *(f"{role.capitalize()} calls" for role in roles), *kinds.values()]
    return Table("cost", "What an answer costs", note, [*header, "Seconds", "Words"], rows)


def count_table(comparison: Comparison) -> Table:
    """What the other tables' figures rest on."""
    rows: list[list[Cell]] = [
        [
            *identity(counts),
            *(counts.answered, counts.replaced, sum(counts.failed.values()), counts.pending),
            *(counts.unscored[rubric] for rubric in RUBRICS),
            *(sum(counts.failed_scores.values()), counts.pending_scores),
        ]
        for counts in comparison.counts
    ]
    note = (
        f"{comparison.prompts:,} prompts. {REPLACED_NOTE} Failed: the last try gave an error; a rerun tries again. "
        "Pending: not tried yet. Unscored: the judge's reply held no usable score, or its server refuses the text; the "
        "answer counts in no mean of that rubric. Scores that failed or are pending: of all rubrics."
    )
    unscored = [f"{METRIC_NAMES[rubric]} unscored" for rubric in RUBRICS]
    header = ["Backbone", "Method", "Answers", "Replaced", "Failed", "Pending", *unscored]
    header += ["Scores failed", "Scores pending"]
    return Table("counts", "Answers and scores", note, header, rows)


def failure_table(comparison: Comparison) -> Table:
    """Why answers and scores failed."""
    rows: list[list[Cell]] = [
        [*identity(counts), what, reason, number]
        for counts in comparison.counts
        for what, reasons in (("answer", counts.failed), ("score", counts.failed_scores))
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    note = "Errors of the last tries, the commonest first; a rerun tries again."
    return Table("failures", "What failed", note, ["Backbone", "Method", "What", "Reason", "Count"], rows)


def agreement_table(comparison: Comparison) -> Table:
    """How far the judges agree."""
    rows: list[list[Cell]] = [
        [
            METRIC_NAMES[row.rubric],
            " / ".join(row.judges),
            row.n,
            *(None if value is None else Figure(value) for value in (row.kappa, row.alpha)),
        ]
        for row in comparison.agreement
    ]
    note = "On the answers that all judges of a row scored; 1 is perfect agreement, 0 what chance gives."
    header = ["Rubric", "Judges", "n", "Quadratic κ", "Krippendorff's α"]
    return Table("agreement", "Agreement of the judges", note, header, rows, comparison.banner_of_all)
