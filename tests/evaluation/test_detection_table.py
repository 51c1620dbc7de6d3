import pytest

from evaluation.detection_table import detection_markdown
from evaluation.published import PAPER_TABLE_3, PEERS


def rates(fpr, detection):
    return {"fpr": fpr, "fpr_interval": [fpr - 0.01, fpr + 0.01]} | {
        "detection": detection,
        "detection_interval": [detection - 0.02, detection + 0.02],
    }


def beavertails(binary_f1=0.851):
    return {
        "protocol": "How pairs count.",
        "n": 3021,
        "harmful": 1733,
        "threshold": 0.4321,
        "binary_f1": binary_f1,
        "binary_f1_interval": [binary_f1 - 0.01, binary_f1 + 0.01],
        "auprc": 0.9,
        "auprc_interval": [0.88, 0.92],
        "micro_f1": 0.7,
        "macro_f1": 0.6,
        "map": 0.65,
        "ece": 0.0512,
        "category_ece": 0.02,
        "flag_rate_safe": 0.29,
        "flag_rate_harmful": 0.83,
        "uncertainty": {
            "protocol": "How spread counts.",
            "groups": [{"spread": 0.125, "n": 300, "errors": 0.04, "interval": [0.02, 0.07]}],
            "widest_tenth": {"n": 302, "errors": 0.31, "interval": [0.26, 0.36]},
            "rest": {"n": 2719, "errors": 0.11, "interval": [0.1, 0.12]},
            "smallest_margins": {"n": 302, "errors": 0.42, "interval": [0.37, 0.48]},
        },
        "category_f1": {
            "theft": {"f1": 0.75, "positives": 40, "interval": [0.7, 0.8]},
            "drugs,weapons": {"f1": 0.5, "positives": 9, "interval": [0.25, 0.75]},
        },
    }


def xstest():
    return {
        "protocol": "How completions count.",
        "n_safe": 1250,
        "n_harmful": 321,
        "n_safe_prompts": 250,
        "n_harmful_prompts": 200,
        **{
            threshold: rates(fpr, 0.9)
            | {"fpr_by_type": {"homonyms": fpr / 2, "definitions": fpr * 2}, "prompts_alone": rates(fpr + 0.1, 0.8)}
            | {"with_uncertainty": rates(fpr + 0.2, 0.9)}
            for threshold, fpr in (("0.3", 0.3), ("0.5", 0.2), ("0.7", 0.1))
        },
    }


def other_domains():
    figures = {"n": 20, "harmful": 8, "f1": 0.5, "auprc": 0.6, "recall": 0.7, "fpr": 0.8, "recall_at_fpr_0.2": 0.9}
    return {"protocol": "How others count.", "all": figures, "forum": figures | {"n": 9}}


def beavertails_markdown(*figures):
    return detection_markdown({"beavertails": beavertails(*figures), "parameters": 22_700_000})


def rows_under(markdown, heading, table=0):
    section = markdown.split(heading, 1)[1].split("\n#", 1)[0]
    tables = [block for block in section.split("\n\n") if block.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[table].splitlines()]


@pytest.mark.parametrize("binary_f1", [0.95, 0.851, 0.5])
def test_ours_stands_among_all_peers_by_f1(binary_f1):
    header, _, *rows = rows_under(beavertails_markdown(binary_f1), "## BeaverTails")
    assert header == ["model", "size", "F1 × 100", "F1 × 100 on XSTest responses", "source"]
    figures = [float(row[2].strip("*").split(" ")[0]) for row in rows]
    assert figures == sorted(figures, reverse=True)
    peers = {(peer.model, peer.size, f"{peer.beavertails:.1f}", peer.source) for peer in PEERS}
    assert {(*row[:3], row[4]) for row in rows if row[0] != "**Lance**"} == peers
    assert len(rows) == len(PEERS) + 1
    place = sum(peer.beavertails > 100 * binary_f1 for peer in PEERS)
    assert rows[place][0] == "**Lance**"


def test_our_f1_carries_its_interval():
    rows = rows_under(beavertails_markdown(), "## BeaverTails")
    assert [row[2] for row in rows if row[0] == "**Lance**"] == ["**85.1 [84.1, 86.1]**"]


def test_the_other_figures_of_beavertails():
    markdown = beavertails_markdown()
    header, _, row = rows_under(markdown, "## BeaverTails", table=1)
    assert dict(zip(header, row, strict=True)) == {
        "AUPRC × 100": "90.0 [88.0, 92.0]",
        "micro-F1 × 100": "70.0",
        "macro-F1 × 100": "60.0",
        "mAP × 100": "65.0",
        "ECE × 100": "5.1",
        "threshold": "0.432",
        "FPR %": "29.0",
        "recall %": "83.0",
    }
    assert "## BeaverTails test split (3,021 pairs, 1,733 harmful)" in markdown
    assert "How pairs count." in markdown


def test_label_noise_stands_beside_the_f1():
    assert "59 to 73 %" in beavertails_markdown()


def test_categories_show_their_positives_and_intervals():
    rows = rows_under(beavertails_markdown(), "### By category")
    assert rows[2:] == [["theft", "40", "75.0 [70.0, 80.0]"], ["drugs,weapons", "9", "50.0 [25.0, 75.0]"]]


def test_xstest_stands_beside_the_papers_table():
    markdown = detection_markdown({"xstest": xstest()})
    rows = rows_under(markdown, "## XSTest")
    assert [row[0] for row in rows[2:]] == list(PAPER_TABLE_3) == ["0.3", "0.5", "0.7"]
    assert [row[5] for row in rows[2:]] == ["21.67 / 96.38", "13.71 / 92.58", "8.81 / 90.64"]
    assert rows[3][1:5] == ["20.0 [19.0, 21.0]", "90.0 [88.0, 92.0]", "30.0 / 80.0", "40.0 / 90.0"]
    assert "1,250 safe and 321 harmful pairs; alone 250 safe and 200 harmful prompts." in markdown


def test_xstest_false_alarms_by_kind_at_each_threshold():
    header, _, *rows = rows_under(detection_markdown({"xstest": xstest()}), "### FPR by kind")
    assert header == ["kind", "τ = 0.3", "τ = 0.5", "τ = 0.7"]
    assert rows == [["homonyms", "15.0", "10.0", "5.0"], ["definitions", "60.0", "40.0", "20.0"]]


def test_other_domains_show_each_source():
    rows = rows_under(detection_markdown({"other_domains": other_domains()}), "## Other domains")
    figures = ["8", "50.0", "60.0", "70.0", "80.0", "90.0"]
    assert rows[2:] == [["all", "20", *figures], ["forum", "9", *figures]]


@pytest.mark.parametrize(
    ("report", "headings"),
    [
        (
            {"beavertails": beavertails(), "parameters": 22_700_000},
            ["## BeaverTails test split (3,021 pairs, 1,733 harmful)", "### By category", "### Uncertainty"],
        ),
        ({"xstest": xstest()}, ["## XSTest", "### FPR by kind of prompt"]),
        ({"detector": "embedded", "other_domains": other_domains()}, ["## Other domains"]),
    ],
)
def test_only_the_sections_that_were_scored_stand(report, headings):
    lines = detection_markdown(report).splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# Detection", *headings]


def test_every_row_has_its_headers_columns():
    markdown = detection_markdown(
        {"parameters": 22_700_000, "beavertails": beavertails(), "xstest": xstest(), "other_domains": other_domains()}
    )
    assert markdown.endswith("|\n")
    tables = [block for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_errors_stand_by_spread():
    markdown = beavertails_markdown()
    for row in (
        "| 0.125 | 300 | 4.0 [2.0, 7.0] |",
        "| the tenth with the widest spread | 31.0 [26.0, 36.0] |",
        "| the rest | 11.0 [10.0, 12.0] |",
        "| the tenth nearest the threshold | 42.0 [37.0, 48.0] |",
    ):
        assert row in markdown
