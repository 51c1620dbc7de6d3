"""Evaluate Lance.

    python evaluate_lance.py detection --test_file test.jsonl --xstest_prompts prompts.csv \
        --xstest_completions completions.csv --other_file other.jsonl --output_dir runs/detection
    python evaluate_lance.py compare --config configs/paper.yaml --run_dir runs/paper --dry_run
    python evaluate_lance.py compare --config configs/paper.yaml --run_dir runs/paper
    python evaluate_lance.py report runs/paper

`detection` scores the detector on labelled pairs and writes detection.json and detection.md. `compare` lets every
method of a study answer the same prompts, measures the answers and has them judged; run again, it goes on where it
stopped. `report` writes a run's tables, plots and trace page into its folder report/.
"""

import argparse
import json
import sys
from pathlib import Path

import transformers

from command_line import OneLineErrors, UsageError, check_writable, make_folder, run
from corpora.beavertails import load_beavertails
from corpora.evaluation_prompts import load_evaluation_prompts, sample_balanced
from corpora.pairs import load_pairs
from corpora.xstest import load_xstest_completions, load_xstest_prompts
from detector import ROOT, load_detector, weights_digest
from evaluation.assembly import Models, most_calls
from evaluation.detection import beavertails_report, other_domains_report, xstest_report
from evaluation.detection_table import detection_markdown
from evaluation.engine_pool import EnginePool
from evaluation.independent import WEIGHTS as INDEPENDENT_WEIGHTS
from evaluation.preflight import check_engines
from evaluation.projection import project, projection_table
from evaluation.provenance import describe_fixed, describe_session
from evaluation.report import write_report
from evaluation.runner import collect_answers, collect_scores, take_measures
from evaluation.store import RunStore, read_run
from evaluation.study import load_study
from generation.engines import EMBEDDED_ADAPTER
from refinement.refusals import WEIGHTS as REFUSAL_WEIGHTS
from refinement.similarity import SentenceEmbedder

DETECTION_REPORTS = ("detection.json", "detection.md")
DETECTION = ROOT / "benchmarks" / "results" / "detection.json"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("detection", help="score the detector on labelled pairs")
    scoring.add_argument("--test_file", help="BeaverTails pairs with labels: a file, or a Hub data set's 30k_test")
    scoring.add_argument("--xstest_prompts", help="XSTest's prompts, csv")
    scoring.add_argument("--xstest_completions", help="XSTest's completions, csv; needs --xstest_prompts")
    scoring.add_argument("--other_file", help="pairs with prompt, response, is_safe and source")
    scoring.add_argument("--output_dir", type=Path, required=True, help="where the reports go")
    comparing = commands.add_parser("compare", help="let every method of a study answer the same prompts")
    comparing.add_argument("--config", type=Path, required=True, help="a study, such as configs/paper.yaml")
    comparing.add_argument("--run_dir", type=Path, required=True, help="where the run is kept")
    comparing.add_argument("--prompts_file", help="prompts with their category, in place of the study's")
    comparing.add_argument("--prompt_count", type=int, help="how many prompts, in place of the study's")
    comparing.add_argument("--dry_run", action="store_true", help="print what it would cost, and stop")
    for part in (scoring, comparing):
        part.add_argument(
            "--detector", default=str(ROOT), help="a Lance checkpoint or its export (default: this directory)"
        )
    reporting = commands.add_parser("report", help="write a run's tables, plots and trace page")
    reporting.add_argument("run_dir", type=Path, help="the run's folder")
    reporting.add_argument(
        "--detection", type=Path, default=DETECTION, help="a detection.json, for Table 3 (default: the embedded one's)"
    )
    return parser


def detection(args: argparse.Namespace):
    """Score what was given, and write the reports."""
    if (args.xstest_prompts is None) != (args.xstest_completions is None):
        raise UsageError("--xstest_prompts and --xstest_completions go together.")
    if args.test_file is None and args.xstest_prompts is None and args.other_file is None:
        raise UsageError("nothing to score: give --test_file, --other_file, or XSTest's two files.")
    make_folder("--output_dir", args.output_dir)
    check_writable("--output_dir", args.output_dir, DETECTION_REPORTS)
    detector = load_detector(args.detector)
    # All of it is read before anything is scored, which takes minutes.
    test, prompts, completions, others = None, None, None, None
    if args.test_file is not None:
        test = load_beavertails(args.test_file, detector.config.categories, split="30k_test")
    if args.xstest_prompts is not None:
        prompts = load_xstest_prompts(args.xstest_prompts)
        completions = load_xstest_completions(args.xstest_completions, prompts)
    if args.other_file is not None:
        others = load_pairs(args.other_file)
    report: dict = {
        "detector": detector_name(args),
        "weights": weights_digest(args.detector),
        "parameters": detector.num_parameters(),
    }
    if test is not None:
        report["beavertails"] = beavertails_report(detector, test, ROOT / "metrics" / "risk_distribution")
    if prompts is not None and completions is not None:
        report["xstest"] = xstest_report(detector, prompts, completions)
    if others is not None:
        report["other_domains"] = other_domains_report(detector, others)
    markdown = detection_markdown(report)
    for name, text in zip(DETECTION_REPORTS, (json.dumps(report, indent=2) + "\n", markdown), strict=True):
        (args.output_dir / name).write_text(text, encoding="utf-8")
    print(markdown)


def compare(args: argparse.Namespace) -> int:
    """Run a study, or what is missing of it; 4 when some of it failed."""
    given = {"prompts": args.prompts_file, "prompt_count": args.prompt_count}
    study = load_study(args.config, **{name: value for name, value in given.items() if value is not None})
    detector = load_detector(args.detector)
    prompts = load_evaluation_prompts(study.prompts, detector.config.categories)
    samples = sample_balanced(prompts, study.prompt_count, study.seed)
    if args.dry_run:
        print(projection_table(project(study, [sample.prompt for sample in samples], most_calls(study)), study.prices))
        return 0
    check_engines(study)
    make_folder("--run_dir", args.run_dir)
    models = Models(EnginePool(), detector, SentenceEmbedder(), args.run_dir)
    weights = {
        "detector": weights_digest(args.detector),
        "embedded refiner": weights_digest(EMBEDDED_ADAPTER),
        "refusal detector": weights_digest(REFUSAL_WEIGHTS),
        "independent classifier": weights_digest(INDEPENDENT_WEIGHTS),
    }
    fixed = describe_fixed(study, samples, detector_name(args), weights)
    with RunStore(args.run_dir, fixed, describe_session(study)) as store:
        failures = {"answers": collect_answers(study, samples, store, models)}
        take_measures(store, models)
        failures["scores"] = collect_scores(study, store, models.pool, args.run_dir / "judgements")
    for name, reasons in failures.items():
        if reasons:
            ((reason, _),) = reasons.most_common(1)
            told = f"{reasons.total()} {name} failed; run it again for just those. The commonest reason: {reason}"
            print(f"evaluate_lance.py: {told}", file=sys.stderr)
    return 4 if any(failures.values()) else 0


def report(args: argparse.Namespace):
    """Write a run's report beside it."""
    try:
        detection_report = json.loads(args.detection.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"--detection {args.detection}: not a detection.json.") from None
    if not isinstance(detection_report, dict):
        raise UsageError(f"--detection {args.detection}: not a detection.json.")
    finished, folder = read_run(args.run_dir), args.run_dir / "report"
    fixed = finished.manifest["fixed"]
    scored, own = (detection_report.get("detector"), detection_report.get("weights")), fixed.get("weights", {})
    if scored != (fixed["detector"], own.get("detector")):
        print("evaluate_lance.py: --detection is another detector's than the run's: left out.", file=sys.stderr)
        detection_report = None
    make_folder("run_dir", folder)
    try:
        write_report(finished, folder, detection_report)
    except OSError as error:
        raise UsageError(f"run_dir {folder}: {error.strerror}.") from None
    print(folder / "report.md")


def detector_name(args: argparse.Namespace) -> str:
    """The detector as reports name it."""
    return "embedded" if Path(args.detector).resolve() == ROOT.resolve() else args.detector


COMMANDS = {"detection": detection, "compare": compare, "report": report}


def main(args: argparse.Namespace) -> int | None:
    """Run the command that was asked for, and return its exit code."""
    return COMMANDS[args.command](args)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("evaluate_lance.py", lambda: main(make_parser().parse_args()))
