"""A run's report: tables in three forms, plots, all figures as JSON, and the trace page."""

import json
from collections.abc import Mapping
from pathlib import Path

from evaluation.comparison import compare
from evaluation.formats import csv_text, latex, markdown
from evaluation.page import write_page
from evaluation.store import Run
from evaluation.study_plots import write_plots
from evaluation.study_tables import study_tables


def write_report(run: Run, folder: Path, detection: Mapping | None):
    """Write the report of a run.

    Args:
        run: what `evaluate_lance.py compare` made.
        folder: where the files go; it exists. What an earlier report left there goes.
        detection: the report of `evaluate_lance.py detection`, for Table 3, if there is one.
    """
    comparison = compare(run)
    tables = study_tables(comparison, detection)
    for earlier in folder.iterdir():  # which tables and plots there are, the run and `detection` say
        if earlier.suffix in (".csv", ".tex", ".svg", ".png"):
            earlier.unlink()
    (folder / "report.md").write_text("\n".join(map(markdown, tables)), encoding="utf-8")
    for table in tables:
        (folder / f"{table.name}.csv").write_text(csv_text(table), encoding="utf-8", newline="")
        (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(comparison.as_json(), indent=2) + "\n", encoding="utf-8")
    write_plots(comparison, detection, folder)
    write_page(run, folder / "traces.html", comparison.banner_of_all)
