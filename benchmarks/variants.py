"""What each part of the training brings: variants of train.py on the same rows, over several seeds.

    python -m benchmarks.variants --data ../shared/data --encoder ENCODER --output_dir benchmarks/results

A run a variant and seed, kept in --runs_dir and not made again. All variants of a seed share their rows, their split
and their fresh heads, so their differences are paired. Judged on held-out prompts of the training files, and on pairs
from other domains; never on the test sets. Writes variants.json and variants.md, and adds to those of the same options.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import transformers

from command_line import OneLineErrors, UsageError, make_folder, run
from corpora.pairs import load_pairs
from detector import ROOT, load_detector
from evaluation.detection import other_domains_report
from evaluation.formats import Figure, markdown_table

SAFE_FILES = ("safe_pairs.jsonl", "safe_prompts.jsonl", "safe_responses_to_risky.jsonl")
COMMON = (
    "--num_train_epochs 1 --learning_rate 2e-4 --per_device_train_batch_size 16 --encoder_dropout 0 "
    "--attn_implementation eager --bf16 --use_cpu --ddp_backend gloo --optim adamw_torch_fused "
    "--eval_strategy no --save_strategy no --load_best_model_at_end False"
)
BASE = "Lance"
POINT_ESTIMATE = "--rejection_estimate mean --kl_loss_weight 0"
VARIANTS = {
    BASE: "",
    "L_aux as its expectation, without the draw's noise": "--rejection_estimate expectation",
    "no semantic head: L_feature out": "--feature_loss_weight 0",
    "no KL": "--kl_loss_weight 0",
    "no auxiliary term": "--aux_loss_weight 0",
    "a point estimate in place of the Beta": POINT_ESTIMATE,
    "plain classifier: L_aux alone": f"{POINT_ESTIMATE} --label_loss_weight 0 --feature_loss_weight 0",
    "labels as the annotators' mean": "--soft_labels True",
    "rare categories and safe pairs weighted": "--safety_balance 0.5 --category_balance 0.3",
    "answers under exchanged prompts": "--exchange_share 0.2",
    "other registers": "--register_share 0.15",
}
# Heading, and where the figure stands.
COLUMNS = {
    "AUPRC": ("validation", "beavertails_auprc"),
    "mAP": ("validation", "beavertails_map"),
    "macro-F1": ("validation", "beavertails_macro_f1"),
    "ECE": ("validation", "beavertails_ece"),
    "harmless rows flagged": ("validation", "safe_flag_rate_safe"),
    "other domains: AUPRC": ("other_domains", "auprc"),
    "recall at FPR 20": ("other_domains", "recall_at_fpr_0.2"),
}


def train(folder: Path, options: str, seed: int, args: argparse.Namespace):
    """Train one variant in two processes of one thread each, the faster way on two cores."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "train.py")),
        *("--encoder", args.encoder, "--train_file", str(args.data / "beavertails_train.jsonl")),
        *("--safe_file", *(str(args.data / name) for name in SAFE_FILES)),
        *("--max_train_rows", str(args.rows), "--max_length", str(args.max_length)),
        *("--seed", str(seed), "--output_dir", str(folder)),
        *f"{COMMON} {options}".split(),
    ]
    with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
        finished = subprocess.run(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if finished.returncode:
        raise UsageError(f"train.py failed on {options!r}: see {log.name}.")


def measure(name: str, seed: int, args: argparse.Namespace) -> dict:
    """The figures of a variant at a seed; trained unless its folder has them."""
    options = VARIANTS[name]
    folder = args.runs_dir / f"{args.rows}-rows" / (options.replace("--", "").replace(" ", "_") or "base") / str(seed)
    kept = folder / "figures.json"
    if not kept.exists():
        make_folder("--runs_dir", folder.parent)
        train(folder, options, seed, args)
        pairs = load_pairs(str(args.data / "other_domains_dev.jsonl"))
        others = other_domains_report(load_detector(str(folder)), pairs)
        validation = json.loads((folder / "validation_metrics.json").read_text(encoding="utf-8"))
        kept.write_text(json.dumps({"validation": validation, "other_domains": others["all"]}), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def summarise(runs: list[dict], base: list[dict]) -> dict:
    """Each figure of a variant over the seeds: its mean and standard deviation, and the same of its gain over the base.

    Args:
        runs: the figures of each seed.
        base: those of the unchanged method, at the same seeds.
    """

    def spread(values: list[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}

    return {
        heading: spread([run[part][figure] for run in runs])
        | {"gain": spread([run[part][figure] - own[part][figure] for run, own in zip(runs, base, strict=True)])}
        for heading, (part, figure) in COLUMNS.items()
    }


def as_markdown(report: dict) -> str:
    """The report as a table: figures × 100, ± their standard deviation over the seeds; gains over the first row."""
    rows = []
    for name, row in report["variants"].items():
        figures = [f"{100 * row[heading]['mean']:.1f} ± {100 * row[heading]['std']:.1f}" for heading in COLUMNS]
        rows.append([name, *figures, Figure(100 * row["AUPRC"]["gain"]["mean"], spec="+.1f")])
    return "\n\n".join(
        [
            f"{report['rows']:,} training rows, one epoch, seeds {', '.join(map(str, report['seeds']))}; × 100.",
            markdown_table(["variant", *COLUMNS, "gain in AUPRC"], rows) + "\n",
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the project's data files")
    parser.add_argument("--encoder", required=True, help="the encoder that all variants start from")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/variants"))
    parser.add_argument("--rows", type=int, default=7000, help="training rows of each run")
    parser.add_argument("--max_length", type=int, default=256, help="tokens of a pair")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS], help="these variants, beside the first")
    return parser


def main(args: argparse.Namespace):
    """Train what is missing, and write the report."""
    make_folder("--runs_dir", args.runs_dir)
    make_folder("--output_dir", args.output_dir)
    options = {"rows": args.rows, "max_length": args.max_length, "seeds": args.seeds, "common": COMMON}
    path = args.output_dir / "variants.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = earlier["variants"] if options.items() <= earlier.items() else {}
    base = [measure(BASE, seed, args) for seed in args.seeds]
    for name in [BASE, *(args.only or VARIANTS)]:
        rows[name] = summarise([measure(name, seed, args) for seed in args.seeds], base) | {"options": VARIANTS[name]}
        report = options | {"variants": {known: rows[known] for known in VARIANTS if known in rows}}
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(as_markdown(report), encoding="utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    run("variants.py", lambda: main(make_parser().parse_args()))
