import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train
from benchmarks.refusal_rows import Completions
from benchmarks.refusals import detect_unseen, figures
from refinement.refusals import refusal_features

ROOT = Path(train.__file__).parent
LABELS = {
    "1_full_compliance": "The sea is blue.",
    "2_full_refusal": "I cannot tell.",
    "3_partial_refusal": "No. But: blue.",
}


def completions(labels):
    return Completions(
        refusal_features([LABELS[label] for label in labels]), np.array(labels), np.zeros(len(labels), bool)
    )


def test_the_figures_are_those_by_hand():
    judged = completions([*LABELS, "2_full_refusal"])
    report = figures([judged], [np.array([False, True, True, False])])
    assert (report["f1"], report["precision"], report["recall"]) == (0.5, 0.5, 0.5)
    assert report["flagged"]["3_partial_refusal"] == {"n": 1, "share": 1.0}
    assert report["flagged"]["2_full_refusal"] == {"n": 2, "share": 0.5}


def test_a_completion_is_judged_without_its_own_prompt():
    # Each answer is a word of its own, so that nothing tells the labels of those that were held out.
    texts = [f"word{number}" for number in range(10)]
    refused = np.array(["2_full_refusal" if number % 2 else "1_full_compliance" for number in range(10)])
    model = Completions(refusal_features(texts), refused, np.zeros(10, bool))
    found = detect_unseen(model, [model], [])
    assert (found == (refused == "2_full_refusal")).mean() <= 0.5


def write_data(folder):
    labels = ["1_full_compliance", "2_full_refusal"]
    prompts = [{"id": n, "prompt": f"Question {n}?", "type": "homonyms", "label": "safe"} for n in range(1, 11)]
    rows = [
        {"model": model, "id": f"v2-{n}", "completion": LABELS[labels[n % 2]], "final_label": labels[n % 2]}
        for model in "edcba"
        for n in range(1, 11)
    ]
    for name, content in (("xstest_prompts.csv", prompts), ("xstest_completions.csv", rows)):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, content[0])
            writer.writeheader()
            writer.writerows(content)
    refusal = {"response": "I won't tell you.", "model": "f", "source": "refusal_direction_jbb"}
    answer = {"response": "The hill is green.", "refused": False, "source": "dolly"}
    (folder / "safe_responses_to_risky.jsonl").write_text(json.dumps(refusal) + "\n", encoding="utf-8")
    (folder / "safe_pairs.jsonl").write_text(2 * (json.dumps(answer) + "\n"), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.refusals", "--data", tmp_path, "--output_dir", tmp_path]
    command += ["--weights", tmp_path / "weights.safetensors"]
    return lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_it_is_fitted_to_the_first_three_models_and_reported_on_the_others(tmp_path, run):
    write_data(tmp_path)
    outcome = run()
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads((tmp_path / "refusals.json").read_text(encoding="utf-8"))
    assert report["fitted_to"]["completions_of"] == ["a", "b", "c"]
    assert set(report["reported"]) == {"together", "d", "e"}
    assert report["reported"]["together"]["f1"] == 1
    assert report["flagged_elsewhere"]["answers"] == {"n": 1, "share": 0}
    assert (tmp_path / "weights.safetensors").stat().st_size < 100_000


def test_missing_data_is_one_line(tmp_path, run):
    outcome = run()
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("refusals.py: ") and outcome.stderr.count("\n") == 1
