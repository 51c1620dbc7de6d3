import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train
from benchmarks.variants import BASE, SAFE_FILES, read_runs, summarise
from command_line import UsageError

ROOT = Path(train.__file__).parent
DATA = ROOT / "tests" / "data"


def run(auprc):
    return {"validation": {"AUPRC": auprc, "F1": 0.5}, "all": {"AUPRC": 0.6}}


def test_gains_are_paired_by_seed():
    figures = summarise([run(0.8), run(0.9)], [run(0.7), run(0.8)])
    auprc = figures["validation"]["AUPRC"]
    assert (auprc["mean"], auprc["std"]) == pytest.approx((0.85, 0.1 / 2**0.5))
    assert (auprc["gain"]["mean"], auprc["gain"]["std"]) == pytest.approx((0.1, 0))
    assert figures["all"]["AUPRC"] == {"mean": 0.6, "std": 0, "gain": {"mean": 0, "std": 0}}


def test_one_seed_has_no_spread():
    figures = summarise([run(0.8)], [run(0.7)])
    assert figures["validation"]["AUPRC"]["std"] is None


def test_a_variant_is_trained_measured_and_not_trained_again(tiny_encoder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for source, name in [("pairs", "beavertails_train"), ("other_pairs", "other_domains_dev")]:
        shutil.copy(DATA / f"{source}.jsonl", data / f"{name}.jsonl")
    for name in SAFE_FILES:
        shutil.copy(DATA / "safe_pairs.jsonl", data / name)
    command = [
        *(sys.executable, "-m", "benchmarks.variants", "--data", data, "--encoder", tiny_encoder),
        *("--output_dir", tmp_path / "results", "--runs_dir", tmp_path / "runs"),
        *("--rows", "64", "--max_length", "64", "--seeds", "3", "--only", "no KL"),
    ]
    written = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        written.append(sorted((tmp_path / "runs").glob("*.log")))
        shutil.rmtree(tmp_path / "runs")
    assert [len(logs) for logs in written] == [2, 0]
    report = json.loads((tmp_path / "results" / "variants.json").read_text(encoding="utf-8"))
    assert list(report["variants"]) == [BASE, "no KL"]
    assert report["variants"]["no KL"]["runs"].keys() == {"3"}
    assert {"validation", "all"} < report["variants"]["no KL"]["figures"].keys()
    assert "## validation" in (tmp_path / "results" / "variants.md").read_text(encoding="utf-8")
    other = subprocess.run([*command, "--max_length", "32"], cwd=ROOT, capture_output=True, text=True)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "name another --output_dir" in other.stderr
    (data / "beavertails_train.jsonl").unlink()
    missing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "no beavertails_train.jsonl in it" in missing.stderr


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_what_is_no_report_of_runs_is_left_alone(tmp_path, content):
    path = tmp_path / "variants.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="no report of this command"):
        read_runs(path, {})
    assert path.read_text() == content
