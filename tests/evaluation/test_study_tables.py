import csv
import io

import pytest

from evaluation.comparison import compare
from evaluation.formats import csv_text, latex, markdown
from evaluation.outcomes import BANNER
from evaluation.published import PAPER_TABLE_1, PAPER_TABLE_4
from evaluation.study_tables import study_tables
from tests.evaluation.study_runs import (
    JUDGE,
    RUBRICS,
    SECOND,
    UNSCORED,
    answer,
    backbone,
    measure,
    older,
    run_of,
    score,
    scored_run,
)

FLAT = dict.fromkeys(["vanilla", "instruct", "lance", "lance-nr", "lance-nf"])


def tables_of(run, detection=None):
    return {table.name: table for table in study_tables(compare(run), detection)}


def cells(table, *row):
    """The printed cells by column, of the row that begins like this."""
    lines = [line.strip("| ").split(" | ") for line in markdown(table).splitlines() if line.startswith("|")]
    (found,) = [line for line in lines[2:] if line[: len(row)] == list(row)]
    return dict(zip(lines[0], found, strict=True))


def first_columns(table, count=2):
    return [tuple(row[:count]) for row in table.rows]


def two_methods(**fields):
    return scored_run({("A", "vanilla"): [2, 4, 2, 4], ("A", "lance"): [8, 8, 8, 8]}, **fields)


def xstest():
    def rates(fpr, detection):
        return {"fpr": fpr, "fpr_interval": [fpr - 0.01, fpr + 0.01]} | {
            "detection": detection,
            "detection_interval": [detection - 0.02, detection + 0.02],
        }

    counts = {"n_safe": 1250, "n_harmful": 136, "n_safe_prompts": 250, "n_harmful_prompts": 200}
    return (
        counts
        | {"protocol": "How pairs count."}
        | {
            threshold: rates(fpr, 0.9) | {"prompts_alone": rates(fpr + 0.1, 0.8), "with_uncertainty": rates(fpr, 0.95)}
            for threshold, fpr in (("0.3", 0.3), ("0.5", 0.2), ("0.7", 0.1))
        }
    )


# The paper's tables


def test_table_1_has_the_papers_figures_beside_ours():
    columns = {("Llama3-8B", "vanilla"): [5, 5, 5, 5], ("Llama3-8B", "instruct"): [3, 3, 3, UNSCORED]}
    table = tables_of(scored_run(columns, backbones=[backbone("Llama3-8B")]))["table1"]
    assert cells(table, "Llama3-8B", "Vanilla") == {
        "Backbone": "Llama3-8B",
        "Method": "Vanilla",
        "Safety": "5.00",
        "Safety (paper)": "4.57",
        "Helpfulness": "5.00",
        "Helpfulness (paper)": "5.59",
        "Naturalness": "5.00",
        "Naturalness (paper)": "7.04",
        "Rigid refusals %": "-",
        "Answers": "4",
        "Replaced": "0",
        "Unscored": "0",
    }
    instruct = cells(table, "Llama3-8B", "Instruct")
    assert (instruct["Safety"], instruct["Safety (paper)"]) == ("3.00", "9.55")
    assert (instruct["Answers"], instruct["Unscored"]) == ("4", "3")


@pytest.mark.parametrize("name", ["table1", "table2", "counts"])
def test_answers_that_the_constructive_reply_replaced_stand_beside_the_unscored(name):
    of = [answer("lance", sample, chosen=None if sample else 0) for sample in range(3)]
    table = tables_of(run_of(of, judges=()))[name]
    row = cells(table, "A", "Lance")
    assert (row["Answers"], row["Replaced"]) == ("3", "2")
    assert "constructive reply" in table.note


def test_table_1_shows_a_method_that_a_backbone_lacks_as_missing():
    columns = {("A", "vanilla"): [5, 5], ("A", "repe"): [5, 5], ("B", "vanilla"): [5, 5]}
    table = tables_of(scored_run(columns, backbones=[backbone("A"), backbone("B")]))["table1"]
    assert first_columns(table)[:4] == [("A", "Vanilla"), ("A", "RepE"), ("B", "Vanilla"), ("B", "RepE")]
    assert {*cells(table, "B", "RepE").values()} == {"B", "RepE", "-"}


def test_table_1_ends_with_the_backbones_of_the_paper_alone():
    table = tables_of(two_methods())["table1"]
    assert [name for name, _ in first_columns(table)] == ["A"] * 2 + [name for name in PAPER_TABLE_1 for _ in range(6)]
    row = cells(table, "Qwen2.5-7B", "Lance")
    assert (row["Safety"], row["Safety (paper)"], row["Answers"]) == ("-", "9.88", "-")


def test_ablations_are_table_2_and_no_row_of_table_1():
    columns = {("Llama3-8B", method): [5, 5] for method in FLAT}
    tables = tables_of(scored_run(columns, backbones=[backbone("Llama3-8B")]))
    assert first_columns(tables["table2"]) == [("Llama3-8B", name) for name in ("Lance-nr", "Lance-nf", "Lance")]
    assert cells(tables["table2"], "Llama3-8B", "Lance-nf")["Helpfulness (paper)"] == "7.69"
    assert not {"Lance-nr", "Lance-nf"} & {method for _, method in first_columns(tables["table1"])}


def test_table_3_stands_only_with_a_detection_report():
    assert "table3" not in tables_of(two_methods())
    assert "table3" not in tables_of(two_methods(), {"beavertails": {}})
    table = tables_of(two_methods(), {"xstest": xstest()})["table3"]
    assert cells(table, "0.5") == {
        "τ": "0.5",
        "FPR %": "20.0 [19.0, 21.0]",
        "FPR % (paper)": "13.71",
        "Detection %": "90.0 [88.0, 92.0]",
        "Detection % (paper)": "92.58",
        "FPR %, prompts alone": "30.0 [29.0, 31.0]",
        "Detection %, prompts alone": "80.0 [78.0, 82.0]",
        "FPR %, with uncertainty": "20.0 [19.0, 21.0]",
        "Detection %, with uncertainty": "95.0 [93.0, 97.0]",
    }
    assert "1,250 safe and 136 harmful pairs" in table.note


def test_table_4_holds_commercial_models_against_lances_mean():
    columns = {
        ("A", "lance"): [6, 6],
        ("B", "lance"): [9, 9],
        ("GPT-4o", "vanilla"): [7, 7],
        ("New", "vanilla"): [4, 4],
    }
    names = {"A": False, "B": False, "New": True, "GPT-4o": True}
    tables = tables_of(scored_run(columns, backbones=[backbone(name, paid) for name, paid in names.items()]))
    table = tables["table4"]
    others = [name for name in PAPER_TABLE_4 if name != "GPT-4o"]
    assert [name for (name,) in first_columns(table, 1)] == ["New", "GPT-4o", *others, "Lance"]
    rows = [cells(table, name) for name in ("New", "GPT-4o", "Kimi-k2", "Lance")]
    assert [(row["Safety"].split(" ")[0], row["Safety (paper)"]) for row in rows] == [
        ("4.00", "-"),
        ("7.00", "9.84"),
        ("-", "9.68"),
        ("7.50", "9.55"),
    ]
    assert "mean over A, B," in table.note
    assert not {"New", "GPT-4o"} & {name for name, _ in first_columns(tables["table1"])}


# The other tables


def test_differences_are_signed_and_tested():
    table = tables_of(two_methods())["differences_judged"]
    row = cells(table, "A", "Safety", "Vanilla")
    assert row["Difference"].startswith("+5.00 [+")
    assert (row["n"], row["p"], row["p (Holm)"]) == ("4", "0.1250", "0.1250")  # 2 of 2⁴ flips


def test_without_a_judge_the_in_loop_risk_is_named_so():
    of = [answer("vanilla", sample) for sample in range(2)] + [answer("lance", sample) for sample in range(2)]
    figures = {
        "vanilla": {"independent_risk": 0.75, "independent_risk_as_asked": 0.25, "rigid_refusal": True},
        "lance": {"independent_risk": 0.25, "independent_risk_as_asked": 0.75},
    }
    tables = tables_of(run_of(of, measures=[measure(a, **figures[a["method"]]) for a in of], judges=()))
    row = cells(tables["judge_free"], "A", "Vanilla")
    assert (row["In-loop risk"], row["Independent risk"]) == ("0.500", "0.750")
    assert row["Independent risk, as asked"] == "0.250"
    assert (row["Answer similarity"], row["Rigid refusals %"]) == ("0.500", "100.0")
    assert "Lance optimises" in tables["judge_free"].note
    against = tables["differences_judge_free"]
    assert cells(against, "A", "Independent risk")["Difference"] == "-0.500"
    assert cells(against, "A", "Independent risk, as asked")["Difference"] == "+0.500"
    assert cells(against, "A", "Rigid refusals %")["Difference"] == "-100.0"
    assert "differences_judged" not in tables


def test_a_measure_that_an_older_run_lacks_is_a_dash():
    of = [answer("vanilla", sample) for sample in range(2)]
    tables = tables_of(run_of(of, measures=[older(measure(a)) for a in of], judges=()))
    row = cells(tables["judge_free"], "A", "Vanilla")
    assert (row["Independent risk"], row["Independent risk, as asked"]) == ("0.500", "-")
    assert "categories_independent_risk_as_asked" not in tables


def test_categories_stand_one_a_row_with_the_methods_side_by_side():
    of = [answer("vanilla", sample, category=name) for sample, name in enumerate(["self_harm", "drugs,weapons"])]
    table = tables_of(run_of(of, [score(a, "safety", 4 + a["sample"]) for a in of]))["categories_safety"]
    assert table.rows[0][:2] == ["A", "drugs, weapons"]
    assert cells(table, "A", "self harm")["Vanilla"] == "4.00"  # one prompt has no interval
    assert cells(table, "A", "drugs, weapons")["Vanilla"] == "5.00"


def test_costs_stand_by_role():
    costs = {"calls": {"backbone": 2, "refiner": 1}, "tokens": {"prompt": 1500, "completion": 40}, "seconds": 1.25}
    run = run_of([answer("vanilla", 0), answer("lance", 0, **costs)])
    table = tables_of(run)["cost"]
    names = ("Backbone calls", "Refiner calls", "Tokens read", "Tokens written", "Seconds", "Words")
    assert [cells(table, "A", "Lance")[name] for name in names] == ["2.00", "1.00", "1,500", "40", "1.25", "3"]
    assert cells(table, "A", "Vanilla")["Refiner calls"] == "0.00"


def test_counts_show_what_no_figure_holds():
    columns = {("A", "vanilla"): [3, None, UNSCORED, None], ("A", "lance"): [3, 3, 3, 3]}
    run = scored_run(columns, failed_answers={("vanilla", "A", 1): "backbone: gone"})
    for sample in range(2):
        del run.scores["lance", "A", sample, JUDGE, "safety"]
    run.failed_scores["lance", "A", 0, JUDGE, "safety"] = "no answer from the judge: gone"
    tables = tables_of(run)
    table = tables["counts"]
    assert table.header[2:] == [
        *("Answers", "Replaced", "Failed", "Pending"),
        *("Safety unscored", "Helpfulness unscored", "Naturalness unscored"),
        *("Scores failed", "Scores pending"),
    ]
    assert [*cells(table, "A", "Vanilla").values()][2:] == ["2", "0", "1", "1", "1", "1", "1", "0", "0"]
    assert [*cells(table, "A", "Lance").values()][2:] == ["4", "0", "0", "0", "0", "0", "0", "1", "1"]
    assert tables["failures"].rows == [
        ["A", "Vanilla", "answer", "backbone: gone", 1],
        ["A", "Lance", "score", "no answer from the judge: gone", 1],
    ]


def test_where_nothing_failed_no_table_says_so():
    assert "failures" not in tables_of(two_methods())


def test_agreement_stands_only_where_two_judged():
    of = [answer("vanilla", sample) for sample in range(3)]
    scores = [score(a, "safety", 2 + a["sample"], judge) for a in of for judge in (JUDGE, SECOND)]
    table = tables_of(run_of(of, scores, judges=(JUDGE, SECOND)))["agreement"]
    assert [*cells(table, "Safety").values()] == ["Safety", f"{JUDGE} / {SECOND}", "3", "1.00", "1.00"]
    assert "agreement" not in tables_of(two_methods())


# All of them


def test_the_banner_stands_on_every_judged_table_and_on_no_other():
    run = scored_run({("A", "vanilla"): [2, 4], ("A", "lance"): [8, 8]}, "embedded")
    run.measures.update({key: measure(of) for key, of in run.answers.items()})
    tables = tables_of(run, {"xstest": xstest()})
    judged = {"table1", "table2", "table4", "differences_judged", *(f"categories_{rubric}" for rubric in RUBRICS)}
    assert {name for name, table in tables.items() if table.banner == BANNER} == judged
    assert all(table.banner is None for name, table in tables.items() if name not in judged)
    assert {"judge_free", "differences_judge_free", "cost", "counts", "table3"} <= tables.keys()


@pytest.mark.parametrize("judge", ["embedded", JUDGE])
def test_every_table_is_whole_in_every_form(judge):
    run = scored_run({("A", method): [2, 4, 7] for method in FLAT}, judge)
    run.measures.update({key: measure(of) for key, of in run.answers.items()})
    tables = study_tables(compare(run), {"xstest": xstest()})
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.header)}
        assert len(set(table.header)) == len(table.header)
        header, *rows = csv.reader(io.StringIO(csv_text(table), newline=""))
        assert {len(row) for row in rows} == {len(header)}
        assert (len(rows), len(set(header))) == (len(table.rows), len(header))
        assert latex(table).count(r" \\") == len(table.rows) + 1
        for form in (markdown(table), latex(table), csv_text(table)):
            assert (BANNER in form) == (table.banner is not None)
