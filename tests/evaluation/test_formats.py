import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.formats import Figure, Table, csv_text, latex, markdown, markdown_table

BANNER = "These scores mean nothing."


def table(rows, header=("Model", "Score", "n"), banner=None):
    return Table("scores", "Scores of models", "Means of 1–10.", header, rows, banner)


def read_csv(text):
    return list(csv.reader(io.StringIO(text, newline="")))


SMALL = table([["A", Figure(8.404, (8.1, 8.7)), 1250], ["B", None, None]])


def test_markdown_stands_under_its_heading_and_note():
    assert markdown(SMALL) == (
        "## Scores of models\n\n"
        "Means of 1–10.\n\n"
        "| Model | Score | n |\n"
        "| --- | ---: | ---: |\n"
        "| A | 8.40 [8.10, 8.70] | 1,250 |\n"
        "| B | - | - |\n"
    )


def test_csv_gives_an_interval_columns_of_its_own():
    assert csv_text(SMALL) == "Model,Score,Score low,Score high,n\r\nA,8.404,8.1,8.7,1250\r\nB,,,,\r\n"


def test_a_figure_without_bounds_leaves_their_columns_empty():
    rows = read_csv(csv_text(table([["A", Figure(1.0, (0.5, 1.5)), 1], ["B", Figure(2.0), 1], ["C", 3, 1]])))
    assert rows[1:] == [["A", "1.0", "0.5", "1.5", "1"], ["B", "2.0", "", "", "1"], ["C", "3", "", "", "1"]]


def test_a_column_without_any_interval_stays_one_column():
    assert read_csv(csv_text(table([["A", Figure(1 / 3), 2]]))) == [["Model", "Score", "n"], ["A", "0.333333", "2"]]


def test_latex_is_a_booktabs_table():
    lines = latex(SMALL).splitlines()
    assert lines == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Scores of models.}",
        r"\label{tab:scores}",
        r"\begin{adjustbox}{max width=\linewidth}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Model & Score & n \\",
        r"\midrule",
        r"A & 8.40 [8.10, 8.70] & 1,250 \\",
        r"B & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        r"\par\smallskip\parbox{\linewidth}{\footnotesize Means of 1–10.}",
        r"\end{table}",
    ]


def test_latex_names_a_group_once_and_sets_groups_apart():
    text = latex(table([["A", "x", 1], ["A", "y", 2], ["B", "z", 3]]))
    assert "A & x & 1 \\\\\n & y & 2 \\\\\n\\addlinespace\nB & z & 3 \\\\\n" in text
    assert r"\addlinespace" not in latex(table([["A", "x", 1], ["B", "y", 2]]))


def test_the_banner_stands_in_every_form():
    marked = table(SMALL.rows, banner=BANNER)
    assert f"**{BANNER}**" in markdown(marked)
    assert rf"\textbf{{{BANNER}}}" in latex(marked)
    header, *rows = read_csv(csv_text(marked))
    assert header[-1] == "banner"
    assert [row[-1] for row in rows] == [BANNER, BANNER]


def test_without_a_banner_no_form_has_its_place():
    assert "**" not in markdown(SMALL)
    assert "textbf" not in latex(SMALL)
    assert "banner" not in csv_text(SMALL)


def test_figures_are_printed_as_their_spec_says():
    row = ["A", Figure(-0.001), Figure(0.25, (-0.1, 0.6), "+z.1f")]
    assert "| A | 0.00 | +0.2 [-0.1, +0.6] |" in markdown(table([row]))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("50 % & more_or less #1 $2", r"50 \% \& more\_or less \#1 \$2"),
        (r"a\b{c}", r"a\textbackslash{}b\{c\}"),
        ("~^<|>", r"\textasciitilde{}\textasciicircum{}\textless{}\textbar{}\textgreater{}"),
        ("τ × κ", r"$\tau$ $\times$ $\kappa$"),
        ("two\n\nparagraphs", "two paragraphs"),
    ],
)
def test_latex_prints_a_text_as_it_is(text, printed):
    assert rf"{printed} & 1 & 1 \\" in latex(table([[text, 1, 1]]))


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12) | st.sampled_from(
    ["a|b", 'say "so"', "self_harm", "drugs,weapons", "two\r\nlines", "\\|"]
)
cells = names | st.none() | st.integers(0, 10**6)


@given(st.lists(st.tuples(names, cells, cells), min_size=1, max_size=5))
def test_csv_reads_back_as_it_was(rows):
    expected = [["" if cell is None else str(cell) for cell in row] for row in rows]
    assert read_csv(csv_text(table(rows))) == [["Model", "Score", "n"], *expected]


@given(st.lists(st.tuples(names, cells, cells), min_size=1, max_size=5))
def test_no_text_breaks_a_markdown_row(rows):
    lines = markdown_table(["Model", "Score", "n"], rows).split("\n")
    assert len(lines) == len(rows) + 2
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {4}


@given(st.lists(st.tuples(names, cells, cells), min_size=1, max_size=5))
def test_no_text_breaks_a_latex_row(rows):
    body = latex(table(rows)).split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    lines = [line for line in body.split("\n") if line != r"\addlinespace"]
    assert len(lines) == len(rows)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}
