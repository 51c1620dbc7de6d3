"""The exported detector on the CPU: its speed over `assess` in PyTorch's fp32, how far off it scores, and its F1."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.metrics import f1_score
from transformers import PreTrainedModel

from benchmarks.detector.pairs import LabelledPairs, risks
from benchmarks.detector.timing import interleave, per_second, ratio, stopwatch
from command_line import UsageError
from corpora.beavertails import load_beavertails
from corpora.splits import split_by_prompt
from detector import ROOT, load_detector
from train import DataArguments, LanceTrainingArguments

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
CALIBRATED = "openvino-int8"
MAX_F1_LOSS = 0.003
TORCH = "torch-fp32"


def measure(
    detector: PreTrainedModel,
    name: str,
    formats: Sequence[str],
    calibration: Dataset,
    validation: LabelledPairs,
    test: LabelledPairs,
    rounds: int,
) -> dict:
    """Export to every format, choose one of int8 on validation, and measure all of them on the test pairs.

    Args:
        detector: in PyTorch.
        name: of its checkpoint.
        formats: each a format and a precision of `export_lance.py`, such as "onnx-int8", as `check_formats` takes them.
        calibration: the pairs that set the ranges of OpenVINO's int8.
        validation: the pairs to choose on.
        test: the pairs to report.
        rounds: of the timing.

    Raises:
        UsageError: when the detector can't be exported to a format.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder, "calibration.jsonl")
        calibration.select_columns(["prompt", "response"]).to_json(file)
        exported = {form: load_detector(export(name, form, file, Path(folder, form))) for form in formats}
        chosen_on, reported = (compare(detector, exported, pairs, rounds) for pairs in (validation, test))
    chosen = choose({form: chosen_on[form] for form in of_precision(formats, "int8")})
    return {
        "runtimes": {library: version(library) for library in {RUNTIMES[form.partition("-")[0]] for form in formats}},
        "chosen": chosen,
        "ratio_int8": reported[chosen]["ratio_to_torch"],
        "f1_loss_int8": reported[chosen]["f1_loss"],
        "score_difference_fp32": max(
            reported[form]["score_difference"]["largest"] for form in of_precision(formats, "fp32")
        ),
        "test": {"pairs": len(test), **reported},
        "validation": {"pairs": len(validation), **chosen_on},
    }


def check_formats(formats: Sequence[str]):
    """Refuse formats among which a figure with a goal has none to be measured on.

    Raises:
        UsageError: when none is in fp32, or none in int8.
    """
    for precision in ("fp32", "int8"):
        if not of_precision(formats, precision):
            raise UsageError(f"--formats {' '.join(formats)}: name one in {precision} too, such as onnx-{precision}.")


def of_precision(formats: Sequence[str], precision: str) -> list[str]:
    """Those of the formats that have this precision."""
    return [form for form in formats if form.endswith(f"-{precision}")]


def read_splits(train_files: Sequence[str], categories: Sequence[str]) -> tuple[Dataset, LabelledPairs]:
    """The training rows and the validation pairs, as `train.py` cuts them; errors as `load_beavertails` raises them."""
    labelled = concatenate_datasets([load_beavertails(source, categories) for source in train_files])
    training, validation = split_by_prompt(labelled, DataArguments().validation_share, LanceTrainingArguments().seed)
    return training, LabelledPairs.from_dataset(validation)


def export(name: str, form: str, calibration: Path, folder: Path) -> Path:
    """Export the checkpoint as a user does.

    Returns:
        The folder that holds it.

    Raises:
        UsageError: with the exporter's own line.
    """
    runtime, _, precision = form.partition("-")
    command = [sys.executable, str(ROOT / "export_lance.py"), "--detector", name, "--output_dir", str(folder)]
    command += ["--format", runtime, "--precision", precision]
    if form == CALIBRATED:
        command += ["--calibration_file", str(calibration)]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        raise UsageError(f"--formats {form}: {outcome.stderr.strip().splitlines()[-1]}")
    return folder


def compare(detector: PreTrainedModel, exported: Mapping, pairs: LabelledPairs, rounds: int) -> dict[str, dict]:
    """Speed, F1 and scores of the exported detectors beside PyTorch's, by format; scoring warms them up."""
    models = {TORCH: detector, **exported}
    scores = {form: risks(model.assess(pairs.prompts, pairs.responses)) for form, model in models.items()}
    flagged = {form: of_form.max(1) > detector.config.binary_threshold for form, of_form in scores.items()}
    differences = {form: np.abs(of_form - scores[TORCH]) for form, of_form in scores.items()}  # (pairs, 14) each
    f1 = {form: float(f1_score(pairs.harmful, of_form, zero_division=0)) for form, of_form in flagged.items()}
    timers = {form: stopwatch(partial(model.assess, pairs.prompts, pairs.responses)) for form, model in models.items()}
    seconds = interleave(timers, rounds)
    return {
        form: {
            "pairs_per_second": per_second(len(pairs), seconds[form]),
            "ratio_to_torch": ratio(seconds[TORCH], seconds[form]),
            "f1": f1[form],
            "f1_loss": f1[TORCH] - f1[form],
            "same_decision": float((flagged[form] == flagged[TORCH]).mean()),
            "score_difference": {
                "mean": float(differences[form].mean()),
                "largest": float(differences[form].max()),
            },
        }
        for form in models
    }


def choose(figures: Mapping[str, Mapping]) -> str:
    """The fastest format that loses at most `MAX_F1_LOSS`; where all lose more, the one that loses least.

    Args:
        figures: what `compare` says of each format.
    """
    close = [form for form in figures if figures[form]["f1_loss"] <= MAX_F1_LOSS]
    if close:
        return max(close, key=lambda form: figures[form]["ratio_to_torch"]["median"])
    return min(figures, key=lambda form: figures[form]["f1_loss"])
