import json
import subprocess
import sys

import pytest

import evaluate_lance
from command_line import UsageError
from corpora.records import CorpusError
from detector import ROOT

DATA = ROOT / "tests" / "data"
XSTEST = ("--xstest_prompts", DATA / "xstest_prompts.csv", "--xstest_completions", DATA / "xstest_completions.csv")


def detect(*options):
    return evaluate_lance.detection(
        evaluate_lance.make_parser().parse_args(["detection", *(str(option) for option in options)])
    )


def test_the_script_writes_both_reports(tiny_detector, tmp_path):
    options = [
        "--detector",
        tiny_detector,
        "--test_file",
        DATA / "pairs.jsonl",
        "--other_file",
        DATA / "other_pairs.jsonl",
    ]
    subprocess.run(
        [sys.executable, ROOT / "evaluate_lance.py", "detection", *options, *XSTEST, "--output_dir", tmp_path / "new"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    report = json.loads((tmp_path / "new" / "detection.json").read_text())
    names = {"n", "binary_f1", "auprc", "micro_f1", "macro_f1", "map", "ece", "threshold", "category_f1"}
    assert names <= report["beavertails"].keys()
    assert report["beavertails"]["n"] == 91
    assert len(report["beavertails"]["category_f1"]) == 14
    for threshold in ("0.3", "0.5", "0.7"):
        assert {"fpr", "detection"} <= report["xstest"][threshold].keys()
        assert {"fpr", "detection"} <= report["xstest"][threshold]["prompts_alone"].keys()
    assert report["other_domains"]["all"]["n"] == 16
    markdown = (tmp_path / "new" / "detection.md").read_text()
    assert "Qwen3Guard" in markdown
    assert "13.71 / 92.58" in markdown


def test_only_what_was_given_is_reported(tiny_detector, tmp_path):
    detect("--detector", tiny_detector, "--other_file", DATA / "other_pairs.jsonl", "--output_dir", tmp_path)
    assert json.loads((tmp_path / "detection.json").read_text()).keys() == {
        *("detector", "weights", "parameters", "other_domains")
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((), UsageError, "nothing to score"),
        (XSTEST[:2], UsageError, "go together"),
        (("--test_file", "missing.jsonl"), CorpusError, "missing.jsonl: no such file"),
        (("--other_file", DATA / "pairs.jsonl"), CorpusError, "row 1: column 'source' is missing"),
    ],
)
def test_bad_input_is_named(tiny_detector, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        detect("--detector", tiny_detector, *options, "--output_dir", tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_all_files_are_read_before_any_is_scored(tiny_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_lance, "beavertails_report", None)  # would fail with another error
    options = ("--test_file", DATA / "pairs.jsonl", "--other_file", "missing.jsonl", "--output_dir", tmp_path)
    with pytest.raises(CorpusError, match="missing.jsonl: no such file"):
        detect("--detector", tiny_detector, *options)


def test_an_output_folder_that_cannot_be_written_is_named(tiny_detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output_dir"):
        detect(
            "--detector", tiny_detector, "--other_file", DATA / "other_pairs.jsonl", "--output_dir", tmp_path / "file"
        )


def test_an_unknown_command_is_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, ROOT / "evaluate_lance.py", "no-such"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
