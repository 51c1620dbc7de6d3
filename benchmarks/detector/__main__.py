"""The detector, measured on labelled pairs: its speed, how its cost grows, and its risk by length.

    python -m benchmarks.detector --test_file test.jsonl --train_file train.jsonl --output_dir benchmarks/results

Sides that are compared take turns, in an order drawn for each round; a ratio is the median of the rounds' ratios. What
they make of the pairs is compared too. Writes detector.json, and a plot for each part that has a curve; the figures of
parts not asked for stay as they are. Linux only: it reads /proc.

    throughput   pairs a second: assess, the bare encoder on the same tokens, transformers' text-classification pipeline
    latency      one pair: assess and the bare encoder, and both by the pair's length
    exported     the CPU formats of export_lance.py against PyTorch, in speed, scores and F1; validation chooses of int8
    training     a training step of train.py against the plain Trainer over AutoModelForSequenceClassification, with the
                 options of `make checkpoint`'s first two runs and with train.py's defaults
    growth       pairs a second and peak memory by the number of pairs, each in a process of its own, warmed up
    length       risk by length, and harmful answers hidden in long harmless ones
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import transformers

from benchmarks.detector import exported, growth, latency, length, throughput, training
from benchmarks.detector.figures import gather
from benchmarks.detector.machine import describe_machine
from benchmarks.detector.pairs import LabelledPairs
from benchmarks.detector.plots import write_plots
from command_line import OneLineErrors, UsageError, make_folder, run
from detector import ROOT, load_checkpoint, weights_digest

PARTS = ("throughput", "latency", "exported", "training", "growth", "length")
FORMATS = ("onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8", "openvino-bf16")
SIZES = (100, 1_000, 10_000, 100_000)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(
        prog="benchmarks.detector", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--test_file", required=True, help="labelled pairs: a file, or a Hub data set's 30k_test")
    parser.add_argument("--train_file", nargs="+", required=True, help="labelled pairs to train and to choose on")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--detector", default=str(ROOT), help="a Lance checkpoint (default: this directory)")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--rounds", type=positive, default=5, help="of each comparison (default: 5)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all")
    parser.add_argument("--training_steps", type=positive, default=20, help="of each training (default: 20)")
    parser.add_argument("--sizes", nargs="+", type=positive, default=SIZES, help="numbers of pairs for the growth")
    return parser


def positive(text: str) -> int:
    """An argument of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def main(args: argparse.Namespace):
    """Measure part by part, writing after each, and print the figures that have a goal."""
    exported.check_formats(args.formats)
    make_folder("--output_dir", args.output_dir)
    path = args.output_dir / "detector.json"
    parts = read_parts(path)
    detector = load_checkpoint(args.detector)
    test = LabelledPairs.read_test(args.test_file, detector.config.categories)
    calibration, validation = exported.read_splits(args.train_file, detector.config.categories)
    measures: dict[str, Callable[[], dict]] = {
        "throughput": lambda: throughput.measure(detector, test, args.rounds),
        "latency": lambda: latency.measure(detector, test, args.rounds),
        "exported": lambda: exported.measure(
            detector, args.detector, args.formats, calibration, validation, test, args.rounds
        ),
        "training": lambda: training.measure(detector, args.train_file, args.training_steps, args.rounds),
        "growth": lambda: growth.measure(args.detector, args.test_file, args.sizes),
        "length": lambda: length.measure(detector, test),
    }
    source = {
        "detector": "embedded" if args.detector == str(ROOT) else args.detector,
        "weights": weights_digest(args.detector),
        "machine": describe_machine(),
    }
    for part in args.part:
        print(f"measuring {part}", file=sys.stderr)
        parts[part] = source | measures[part]()
        report = {"figures": gather(parts), "parts": parts}
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_plots(parts, args.output_dir)
    print(json.dumps(gather(parts), indent=2))


def read_parts(path: Path) -> dict[str, dict]:
    """What an earlier run left, by part.

    Raises:
        UsageError: when the file is something else.
    """
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: no report of this command; move it away.") from None


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("benchmarks.detector", lambda: main(make_parser().parse_args()))
