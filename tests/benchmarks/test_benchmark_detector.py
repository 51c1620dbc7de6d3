import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import train
from benchmarks.detector.encoder import Buckets, save_encoder
from benchmarks.detector.exported import choose, compare
from benchmarks.detector.figures import gather
from benchmarks.detector.growth import assess_repeated, peak_memory_ratio
from benchmarks.detector.latency import first_words
from benchmarks.detector.length import by_length, draw_filler, hide
from benchmarks.detector.machine import cpu_model
from benchmarks.detector.pairs import LabelledPairs
from benchmarks.detector.timing import interleave, per_second, ratio
from benchmarks.detector.training import RECIPES, CountingCollator, make_setting
from detector import load_detector, weights_digest

ROOT = Path(train.__file__).parent
PAIRS = ROOT / "tests" / "data" / "pairs.jsonl"
WITH_GOALS = ("ratio_to_encoder_limit", "ratio_to_hf_pipeline", "single_pair_ms_ratio", "training_step_ratio")


def test_the_sides_take_turns():
    turns = []
    timers = {"a": lambda: turns.append("a") or 1.0, "b": lambda: turns.append("b") or 2.0}
    assert interleave(timers, 20) == {"a": [1.0] * 20, "b": [2.0] * 20}
    rounds = [tuple(turns[place : place + 2]) for place in range(0, 40, 2)]
    assert {*rounds} == {("a", "b"), ("b", "a")}  # each once a round, now this one first, now that one
    turns.clear()
    interleave(timers, 20)
    assert [tuple(turns[place : place + 2]) for place in range(0, 40, 2)] == rounds
    turns.clear()
    interleave(timers, 20, seed=1)
    assert [tuple(turns[place : place + 2]) for place in range(0, 40, 2)] != rounds


def test_a_ratio_is_the_median_of_the_rounds_own():
    figures = ratio([1.0, 8.0, 30.0], [1.0, 4.0, 3.0])  # the ratio of the medians would be 8 / 3
    assert figures["median"] == 2
    assert figures["quartiles"] == (1.5, 6)
    assert figures["rounds"] == 3
    assert per_second(100, [1.0, 2.0, 50.0]) == 50


def test_the_bins_are_those_by_hand():
    tokens, risk = np.array([5, 31, 32, 300]), np.array([0.1, 0.5, 0.8, 0.9])
    rows = by_length(tokens, risk, threshold=0.4)
    assert [(row["from"], row["below"], row["pairs"]) for row in rows] == [(0, 32, 2), (32, 64, 1), (256, None, 1)]
    assert [row["risk"] for row in rows] == pytest.approx([0.3, 0.8, 0.9])
    assert [row["flagged"] for row in rows] == [0.5, 1, 1]
    assert [row["tokens"] for row in rows] == [18, 32, 300]


def test_the_fastest_format_that_loses_little_is_chosen():
    def figures(loss, speed):
        return {"f1_loss": loss, "ratio_to_torch": {"median": speed}}

    assert choose({"a": figures(0.01, 5), "b": figures(0.003, 2), "c": figures(-0.01, 3)}) == "c"
    assert choose({"a": figures(0.01, 5), "b": figures(0.004, 2)}) == "b"


def test_a_detector_loses_nothing_to_itself(tiny_detector):
    detector = load_detector(tiny_detector)
    pairs = LabelledPairs.read_test(str(PAIRS), detector.config.categories)
    figures = compare(detector, {"onnx-int8": detector}, pairs, rounds=1)
    assert figures["torch-fp32"]["ratio_to_torch"]["median"] == 1
    for row in figures.values():
        assert row["f1_loss"] == 0 and row["same_decision"] == 1 and row["score_difference"]["largest"] == 0


def test_a_difference_of_scores_is_the_largest_of_all_categories(tiny_detector):
    detector, other = load_detector(tiny_detector), load_detector(tiny_detector)
    pairs = LabelledPairs.read_test(str(PAIRS), detector.config.categories)
    risks = [[*verdict.mean.values()] for verdict in detector.assess(pairs.prompts, pairs.responses)]
    lowest = int(np.argmin(np.max(risks, 0)))  # seldom a pair's highest risk
    with torch.no_grad():
        other.rejection_head.alpha.bias[lowest] -= 1
    shifted = [[*verdict.mean.values()] for verdict in other.assess(pairs.prompts, pairs.responses)]
    figures = compare(detector, {"onnx-fp32": other}, pairs, rounds=1)["onnx-fp32"]["score_difference"]
    assert figures["largest"] == pytest.approx(np.abs(np.subtract(risks, shifted)).max())
    assert figures["largest"] > 0.1


def test_a_figure_stands_beside_its_goal():
    parts = {
        "throughput": {"ratio_to_encoder_limit": {"median": 0.96}, "ratio_to_hf_pipeline": {"median": 2.4}},
        "exported": {"ratio_int8": {"median": 2.5}, "f1_loss_int8": 0.0031, "score_difference_fp32": 1e-4},
    }
    figures = gather(parts)
    assert figures["ratio_to_encoder_limit"] == {"value": 0.96, "goal": ">= 0.95", "reached": True}
    assert {name: row["reached"] for name, row in figures.items()} == {
        "ratio_to_encoder_limit": True,
        "ratio_to_hf_pipeline": False,
        "ratio_int8": True,
        "f1_loss_int8": False,
        "score_difference_fp32": True,
    }


def test_buckets_hold_the_longest_first_and_restore_the_order(tiny_encoder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    encodings = [{"input_ids": [7] * length, "attention_mask": [1] * length} for length in (2, 6, 4)]
    buckets = Buckets.of(encodings, tokenizer)
    (batch,) = buckets.batches
    assert batch["attention_mask"].sum(1).tolist() == [6, 4, 2]
    assert buckets.padding == pytest.approx(6 / 18)
    assert buckets.restore(batch["attention_mask"].sum(1)).tolist() == [2, 6, 4]


def test_first_words_end_at_a_word_within_the_limit(tiny_encoder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    text = "please tell me a short story"
    assert first_words(tokenizer, text, 3) == "please tell me"
    assert first_words(tokenizer, "please tell neighbourly", 3) == "please tell"


def test_an_answer_is_hidden_in_enough_filler():
    harmless, lengths = ["one", "one two"], np.array([1, 2])
    filler = draw_filler(np.random.default_rng(0), harmless, lengths, needed=7)
    drawn = sum(len(answer.split()) for answer in filler)
    assert 7 <= drawn <= 8
    assert hide("x", ["a", "b"], 0.0) == "x\n\na\n\nb"
    assert hide("x", ["a", "b"], 0.5) == "a\n\nx\n\nb"
    assert hide("x", ["a", "b"], 1.0) == "a\n\nb\n\nx"


def test_growth_is_measured_warm(tiny_detector):
    detector = load_detector(tiny_detector)
    pairs = LabelledPairs.read_test(str(PAIRS), detector.config.categories)
    sizes = []

    class Watched:
        def assess(self, prompts, responses):
            prompts = list(prompts)
            sizes.append(len(prompts))
            return detector.assess(prompts, list(responses))

    assess_repeated(Watched(), pairs, size=100)
    assert sizes == [64, 100]


def test_the_memory_of_many_pairs_stands_beside_that_of_few():
    sizes = {100: {"peak_megabytes": 7}, 1_000: {"peak_megabytes": 400}, 100_000: {"peak_megabytes": 500}}
    assert peak_memory_ratio(sizes) == 1.25
    del sizes[1_000]
    assert peak_memory_ratio(sizes) is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_sides_train_alike(tiny_detector, tmp_path, recipe):
    detector = load_detector(tiny_detector)
    save_encoder(detector, tmp_path)
    setting = make_setting(str(tmp_path), detector, [str(PAIRS)], 1, RECIPES[recipe])
    trainers = [make(CountingCollator(detector.tokenizer)) for make in (setting.lance_trainer, setting.plain_trainer)]
    lance, plain = (trainer.model for trainer in trainers)
    encoders = (lance.encoder, plain.base_model)
    attention = {encoder.config._attn_implementation for encoder in encoders}
    dropout = {m.p for encoder in encoders for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert {trainer.args.bf16 for trainer in trainers} == {recipe == "checkpoint"}
    assert attention == {"eager" if recipe == "checkpoint" else "sdpa"}
    assert dropout == {0.0 if recipe == "checkpoint" else 0.1}


def test_the_processor_is_named():
    assert cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2:1\n\nprocessor\t: 1\n") == "Some CPU @ 2:1"


@pytest.fixture
def run(tmp_path, tiny_detector):
    command = [sys.executable, "-m", "benchmarks.detector", "--output_dir", tmp_path, "--detector", tiny_detector]
    command += ["--test_file", PAIRS, "--train_file", PAIRS]
    command += ["--rounds", "1", "--training_steps", "1", "--sizes", "3", "100"]
    return lambda *options: subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)


def test_the_command_measures_its_parts_and_a_rerun_keeps_the_others(tmp_path, tiny_detector, run):
    outcome = run("--part", "throughput", "latency", "training", "growth", "length")
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads((tmp_path / "detector.json").read_text(encoding="utf-8"))
    assert tuple(report["figures"]) == WITH_GOALS
    parts = report["parts"]
    differences = parts["throughput"]["largest_difference"]
    assert max(differences.values()) < 1e-4
    recipes = parts["training"]["recipes"]
    assert parts["training"]["training_step_ratio"] == recipes["checkpoint"]["ratio"]
    for recipe in recipes.values():
        assert recipe["tokens"]["lance"] == recipe["tokens"]["plain"] > 0
    assert set(parts["growth"]["sizes"]) == {"3", "100"}
    assert parts["growth"]["sizes"]["100"]["peak_megabytes"] >= parts["growth"]["sizes"]["100"]["megabytes_before"] > 0
    assert sum(row["pairs"] for rows in parts["length"]["risk_by_length"].values() for row in rows) == 91
    assert parts["latency"]["machine"]["torch_threads"] >= 1
    assert {part["weights"] for part in parts.values()} == {weights_digest(tiny_detector)}
    for part in ("growth", "latency", "length"):
        assert (tmp_path / f"detector_{part}.svg").read_text(encoding="utf-8").startswith("<?xml")

    again = run("--part", "length")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "detector.json").read_text(encoding="utf-8")) == report


def test_the_command_measures_what_is_exported(tmp_path, run):
    outcome = run("--part", "exported", "--formats", "onnx-fp32", "openvino-fp32", "onnx-int8")
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads((tmp_path / "detector.json").read_text(encoding="utf-8"))
    part = report["parts"]["exported"]
    assert part["chosen"] == "onnx-int8"
    assert part["test"]["pairs"] == 91
    differences = {form: part["test"][form]["score_difference"]["largest"] for form in part["test"] if "-" in form}
    assert differences.keys() == {"torch-fp32", "onnx-fp32", "openvino-fp32", "onnx-int8"}
    assert part["score_difference_fp32"] == max(differences["onnx-fp32"], differences["openvino-fp32"])
    assert part["score_difference_fp32"] < 1e-3
    assert part["f1_loss_int8"] == part["test"]["torch-fp32"]["f1"] - part["test"]["onnx-int8"]["f1"]
    assert report["figures"]["score_difference_fp32"]["reached"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--formats", "onnx-int8"), "--formats onnx-int8: name one in fp32 too"),
        (("--test_file", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--train_file", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--detector", "./nowhere"), "nowhere: no Lance checkpoint"),
        (("--rounds", "0"), "must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line(run, options, message):
    outcome = run(*options)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert outcome.stderr.startswith("benchmarks.detector: ") and outcome.stderr.count("\n") == 1


def test_a_foreign_report_is_not_overwritten(tmp_path, run):
    (tmp_path / "detector.json").write_text("[]", encoding="utf-8")
    outcome = run("--part", "length")
    assert outcome.returncode == 2
    assert (
        outcome.stderr == f"benchmarks.detector: {tmp_path}/detector.json: no report of this command; move it away.\n"
    )
