"""Evaluate Lance.

    python evaluate_lance.py detection --test_file test.jsonl --xstest_prompts prompts.csv \
        --xstest_completions completions.csv --other_file other.jsonl --output_dir runs/detection

`detection` scores the detector on labelled pairs and writes detection.json and detection.md.
"""

import argparse
import json
from pathlib import Path

import transformers

from command_line import OneLineErrors, UsageError, make_folder, run
from corpora.beavertails import load_beavertails
from corpora.pairs import load_pairs
from corpora.xstest import load_xstest_completions, load_xstest_prompts
from detector import ROOT, load_detector
from evaluation.detection import beavertails_report, other_domains_report, xstest_report
from evaluation.detection_table import detection_markdown


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    detection = commands.add_parser("detection", help="score the detector on labelled pairs")
    detection.add_argument("--detector", default=str(ROOT), help="a Lance checkpoint (default: this directory)")
    detection.add_argument("--test_file", help="BeaverTails pairs with labels: a file, or a Hub data set's 30k_test")
    detection.add_argument("--xstest_prompts", help="XSTest's prompts, csv")
    detection.add_argument("--xstest_completions", help="XSTest's completions, csv; needs --xstest_prompts")
    detection.add_argument("--other_file", help="pairs with prompt, response, is_safe and source")
    detection.add_argument("--output_dir", type=Path, required=True, help="where the reports go")
    return parser


def detection(args: argparse.Namespace):
    """Score what was given, and write the reports."""
    if (args.xstest_prompts is None) != (args.xstest_completions is None):
        raise UsageError("--xstest_prompts and --xstest_completions go together.")
    if args.test_file is None and args.xstest_prompts is None and args.other_file is None:
        raise UsageError("nothing to score: give --test_file, --other_file, or XSTest's two files.")
    make_folder("--output_dir", args.output_dir)
    try:
        for name in ("detection.json", "detection.md"):
            with (args.output_dir / name).open("a"):  # only whether it can be written: a report that stands stays
                pass
    except OSError as error:
        raise UsageError(f"--output_dir {args.output_dir}: {error.strerror}.") from None
    detector = load_detector(args.detector)
    report: dict = {
        "detector": "embedded" if args.detector == str(ROOT) else args.detector,
        "parameters": detector.num_parameters(),
    }
    if args.test_file is not None:
        test = load_beavertails(args.test_file, detector.config.categories, split="30k_test")
        report["beavertails"] = beavertails_report(detector, test, ROOT / "metrics" / "risk_distribution")
    if args.xstest_prompts is not None:
        prompts = load_xstest_prompts(args.xstest_prompts)
        report["xstest"] = xstest_report(detector, prompts, load_xstest_completions(args.xstest_completions, prompts))
    if args.other_file is not None:
        report["other_domains"] = other_domains_report(detector, load_pairs(args.other_file))
    (args.output_dir / "detection.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    markdown = detection_markdown(report)
    (args.output_dir / "detection.md").write_text(markdown, encoding="utf-8")
    print(markdown)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    run("evaluate_lance.py", lambda: detection(make_parser().parse_args()))
