"""A table and its printed forms: Markdown to read, CSV to compute with, LaTeX to print."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


class Figure(NamedTuple):
    """A number in a table.

    Args:
        value: the number.
        interval: its lower and upper bound, if it has them.
        spec: how Markdown and LaTeX print it and its bounds; CSV keeps six decimals.
    """

    value: float
    interval: tuple[float, float] | None = None
    spec: str = "z.2f"


Cell = str | int | Figure | None  # `None`: there is no such figure


@dataclass(frozen=True)
class Table:
    """A table, whatever it is printed as.

    Args:
        name: of its file, and of its label in LaTeX.
        title: one phrase.
        note: what a reader must know of its figures.
        header: names of the columns, all different.
        rows: as many cells each as the header.
        banner: a warning that no form may lose, if there is one.
    """

    name: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    banner: str | None = None


def markdown(table: Table) -> str:
    """The table under a heading, after its banner and its note."""
    banner = [f"**{table.banner}**"] if table.banner else []
    return "\n\n".join([f"## {table.title}", *banner, table.note, markdown_table(table.header, table.rows)]) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The bare table; columns of numbers stand to the right."""
    rule = ["---" if _is_text(column) else "---:" for column in _columns(header, rows)]
    lines = [[_markdown_text(name) for name in header], rule]
    lines += [[_markdown_text(_print(cell, missing="-")) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_text(table: Table) -> str:
    """The table after RFC 4180, its line ends included: write it with `newline=""`.

    An interval has two columns of its own, a missing figure is an empty field, and the banner is the last column, in
    every row: there it outlasts a sort, a join and a reader that knows no comments.
    """
    columns = _columns(table.header, table.rows)
    header: list[str] = []
    fields: list[list[str | int | float | None]] = [[] for _ in table.rows]
    for name, column in zip(table.header, columns, strict=True):
        bounded = any(isinstance(cell, Figure) and cell.interval for cell in column)
        header += [name, f"{name} low", f"{name} high"] if bounded else [name]
        for row, cell in zip(fields, column, strict=True):
            row += _csv_fields(cell, bounded)
    if table.banner:
        header.append("banner")
        fields = [[*row, table.banner] for row in fields]
    text = io.StringIO()
    csv.writer(text).writerows([header, *fields])
    return text.getvalue()


def latex(table: Table) -> str:
    """The table as a float, for `booktabs` and for `adjustbox`, which shrinks a table that is wider than the page."""
    alignment = "".join("l" if _is_text(column) else "r" for column in _columns(table.header, table.rows))
    banner = rf" \textbf{{{_latex_text(table.banner)}}}" if table.banner else ""
    groups = [list(group) for _, group in groupby(table.rows, key=lambda row: row[0])]
    gap = "\\addlinespace\n" if any(len(group) > 1 for group in groups) else ""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}.{banner}}}",
        rf"\label{{tab:{table.name}}}",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        _latex_row(table.header),
        r"\midrule",
        f"\n{gap}".join(_latex_group(group) for group in groups),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {_latex_text(table.note)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _columns(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    return [[row[place] for row in rows] for place in range(len(header))]


def _is_text(column: Sequence[Cell]) -> bool:
    return any(isinstance(cell, str) for cell in column)


def _print(cell: Cell, missing: str) -> str:
    if isinstance(cell, Figure):
        bounds = [format(bound, cell.spec) for bound in cell.interval or ()]
        return format(cell.value, cell.spec) + (f" [{', '.join(bounds)}]" if bounds else "")
    if isinstance(cell, int):
        return f"{cell:,}"
    return missing if cell is None else cell


def _csv_fields(cell: Cell, bounded: bool) -> list[str | int | float | None]:
    if not isinstance(cell, Figure):
        return [cell, None, None] if bounded else [cell]
    ends = [cell.value, *(cell.interval or (None, None))] if bounded else [cell.value]
    return [None if end is None else round(end, 6) for end in ends]


def _markdown_text(text: str) -> str:
    return " ".join(text.split()).replace("\\", r"\\").replace("|", r"\|")


# What a text may hold that LaTeX reads otherwise, or that pdfLaTeX's fonts lack.
_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"τ": r"$\tau$", "κ": r"$\kappa$", "α": r"$\alpha$", "×": r"$\times$", "−": "$-$"}
)


def _latex_text(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX_ESCAPES)


def _latex_row(cells: Sequence[Cell]) -> str:
    return " & ".join(_latex_text(_print(cell, missing="--")) for cell in cells) + r" \\"


def _latex_group(rows: Sequence[Sequence[Cell]]) -> str:
    """Rows with the same first cell, which stands there once."""
    return "\n".join(_latex_row(row if place == 0 else ["", *row[1:]]) for place, row in enumerate(rows))
