"""The paper's four tables with our figures in them, the paper's own beside."""

from collections.abc import Iterable, Mapping, Sequence

from evaluation.breakdown_tables import breakdown_tables
from evaluation.formats import Cell, Figure, Table
from evaluation.outcomes import Comparison
from evaluation.published import PAPER_TABLE_1, PAPER_TABLE_2, PAPER_TABLE_3, PAPER_TABLE_4, PAPER_TABLE_4_LANCE
from evaluation.study_cells import (
    INTERVALS,
    METHOD_NAMES,
    METRIC_NAMES,
    REPLACED_NOTE,
    cell,
    judged_note,
    score_header,
    scores,
)

MAIN = ("vanilla", "repe", "sysprompt", "selfrefine", "instruct", "lance")
ABLATION = ("lance-nr", "lance-nf", "lance")


def study_tables(comparison: Comparison, detection: Mapping | None = None) -> list[Table]:
    """All tables that the figures allow, the paper's four first.

    Args:
        comparison: a run's figures.
        detection: the report of `evaluate_lance.py detection`, for Table 3.
    """
    tables = [
        _methods_table(comparison, "table1", "Methods on each backbone (the paper's Table 1)", MAIN, PAPER_TABLE_1),
        _methods_table(comparison, "table2", "Ablations (the paper's Table 2)", ABLATION, PAPER_TABLE_2),
    ]
    if detection is not None and "xstest" in detection:
        tables.append(threshold_table(detection["xstest"]))
    return [*tables, commercial_table(comparison), *breakdown_tables(comparison)]


def threshold_table(xstest: Mapping) -> Table:
    """Table 3: false alarms and detection on XSTest.

    Args:
        xstest: that section of the report of `evaluate_lance.py detection`.
    """
    kinds = {"prompts_alone": "prompts alone", "with_uncertainty": "with uncertainty"}
    rows: list[list[Cell]] = [
        [
            threshold,
            *(_rate(xstest[threshold], "fpr"), Figure(paper_fpr)),
            *(_rate(xstest[threshold], "detection"), Figure(paper_detection)),
            *(_rate(xstest[threshold][kind], name) for kind in kinds for name in ("fpr", "detection")),
        ]
        for threshold, (paper_fpr, paper_detection) in PAPER_TABLE_3.items()
    ]
    note = (
        f"{xstest['n_safe']:,} safe and {xstest['n_harmful']:,} harmful pairs, alone {xstest['n_safe_prompts']:,} and "
        f"{xstest['n_harmful_prompts']:,} prompts; 95 % bootstrap intervals. {xstest['protocol']} The paper's protocol "
        "is unknown."
    )
    header = ["τ", "FPR %", "FPR % (paper)", "Detection %", "Detection % (paper)"]
    header += [f"{name} %, {kind}" for kind in kinds.values() for name in ("FPR", "Detection")]
    return Table("table3", "Thresholds on XSTest (the paper's Table 3)", note, header, rows)


def commercial_table(comparison: Comparison) -> Table:
    """Table 4: commercial models as they are, against Lance's mean over the other backbones."""
    rows: list[list[Cell]] = []
    for name in _with_published(comparison.commercial, PAPER_TABLE_4):
        vanilla = comparison.of(name).get("vanilla")
        rows.append([name, *scores(vanilla.means if vanilla else {}, PAPER_TABLE_4.get(name))])
    rows.append([METHOD_NAMES["lance"], *scores(comparison.ours, PAPER_TABLE_4_LANCE)])
    averaged = [name for name in comparison.own if "lance" in comparison.of(name)]
    ours = f"Lance: its mean over {', '.join(averaged) or 'no backbone'}, on the prompts scored on all of them."
    return Table(
        "table4",
        "Commercial models and Lance (the paper's Table 4)",
        f"{INTERVALS} {ours} {judged_note(comparison)}",
        ["Model", *score_header()],
        rows,
        comparison.banner,
    )


def _methods_table(
    comparison: Comparison,
    name: str,
    title: str,
    methods: Sequence[str],
    published: Mapping[str, Mapping[str, Sequence[float]]],
) -> Table:
    """Tables 1 and 2: the methods on every backbone that the run or the paper has."""
    run = {outcome.method for outcome in comparison.outcomes}
    rows: list[list[Cell]] = []
    for backbone in _with_published(comparison.own, published):
        outcomes, paper = comparison.of(backbone), published.get(backbone, {})
        for method in methods:
            if method in paper or (outcomes and method in run):
                outcome = outcomes.get(method)
                means = outcome.means if outcome else {}
                rows.append(
                    [
                        *(backbone, METHOD_NAMES[method]),
                        *scores(means, paper.get(method)),
                        cell("rigid_refusal", means.get("rigid_refusal")),
                        outcome.counts.answered if outcome else None,
                        outcome.counts.replaced if outcome else None,
                        sum(outcome.counts.unscored.values()) if outcome else None,
                    ]
                )
    unscored = "Unscored: judgements without a usable score; they count in no mean."
    note = f"{INTERVALS} {REPLACED_NOTE} {unscored} {judged_note(comparison)}"
    header = ["Backbone", "Method", *score_header(), METRIC_NAMES["rigid_refusal"], "Answers", "Replaced", "Unscored"]
    return Table(name, title, note, header, rows, comparison.banner)


def _with_published(ours: Iterable[str], published: Iterable[str]) -> list[str]:
    """Our names in our order, then those that only the paper has."""
    return list(dict.fromkeys([*ours, *published]))


def _rate(figures: Mapping, name: str) -> Cell:
    share, bounds = figures[name], figures[f"{name}_interval"]
    return None if share is None else Figure(100 * share, (100 * bounds[0], 100 * bounds[1]), "z.1f")
