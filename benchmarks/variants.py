"""What each part of the training brings: variants of train.py on the same rows, over several seeds.

    python -m benchmarks.variants --data ../shared/data --encoder ENCODER --output_dir benchmarks/results

All variants of a seed share their rows, their split and their fresh heads, so their differences are paired. Judged on
held-out prompts of the training files, and on pairs from other domains; never on the test sets. Writes variants.json,
which keeps each run's figures and is read first, so that no run is made twice, and variants.md.
"""

import argparse
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from command_line import OneLineErrors, UsageError, check_writable, make_folder, run
from corpora.pairs import load_pairs
from detector import ROOT, load_detector, weights_digest
from evaluation.detection import other_domains_report
from evaluation.formats import markdown_table
from whole_file import write_whole

TRAIN_FILE, OTHER_FILE = "beavertails_train.jsonl", "other_domains_dev.jsonl"
SAFE_FILES = ("safe_pairs.jsonl", "safe_prompts.jsonl", "safe_responses_to_risky.jsonl")
DATA_FILES = (TRAIN_FILE, *SAFE_FILES, OTHER_FILE)
COMMON = (
    "--num_train_epochs 1 --learning_rate 2e-4 --per_device_train_batch_size 16 --encoder_dropout 0 "
    "--attn_implementation eager --use_cpu --ddp_backend gloo --optim adamw_torch_fused "
    "--eval_strategy no --save_strategy no --load_best_model_at_end False"
)
BASE = "Lance"
POINT_ESTIMATE = "--rejection_estimate mean --kl_loss_weight 0"  # a point has no divergence
VARIANTS = {
    BASE: "",
    "L_aux as its expectation, without the draw's noise": "--rejection_estimate expectation",
    "no L_feature, the semantic head's only use": "--feature_loss_weight 0",
    "no KL": "--kl_loss_weight 0",
    "five times the KL": "--kl_loss_weight 0.05",
    "no auxiliary term": "--aux_loss_weight 0",
    "no KL, and a point estimate in place of the Beta": POINT_ESTIMATE,
    "plain classifier: L_aux alone": f"{POINT_ESTIMATE} --label_loss_weight 0 --feature_loss_weight 0",
    "labels as the annotators' mean": "--soft_labels True",
    "rare categories and safe pairs weighted": "--safety_balance 0.5 --category_balance 0.3",
    "answers under exchanged prompts": "--exchange_share 0.2",
    "other registers": "--register_share 0.15",
    "harmless text spliced into answers": "--splice_share 0.2",
    "no prompts alone": "--prompt_only_share 0",
    "the first token's state in place of the mean": "--pooling cls",
    "two epochs": "--num_train_epochs 2",
}
VALIDATION = {
    "AUPRC": "beavertails_auprc",
    "mAP": "beavertails_map",
    "F1": "beavertails_binary_f1",
    "macro-F1": "beavertails_macro_f1",
    "ECE": "beavertails_ece",
    "harmless rows flagged": "safe_flag_rate_safe",
}
OTHER_DOMAINS = {
    "F1": "f1",
    "AUPRC": "auprc",
    "recall": "recall",
    "FPR": "fpr",
    "recall at FPR 20": "recall_at_fpr_0.2",
}


def train_options(options: str, seed: str, args: argparse.Namespace) -> list[str]:
    """What a run is trained with, but for its folder."""
    return [
        *("--encoder", args.encoder, "--train_file", str(args.data / TRAIN_FILE)),
        *("--safe_file", *(str(args.data / name) for name in SAFE_FILES)),
        *("--max_train_rows", str(args.rows), "--max_length", str(args.max_length)),
        *("--seed", seed, *f"{COMMON} {options}".split()),
    ]


def train(folder: Path, options: list[str]):
    """Train in two processes of one thread each, the faster way on two cores."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "train.py")),
        *(*options, "--output_dir", str(folder)),
    ]
    with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
        finished = subprocess.run(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if finished.returncode:
        raise UsageError(f"train.py failed: see {log.name}.")


def measure(name: str, seed: str, args: argparse.Namespace) -> dict:
    """Train a variant at a seed; its figures by group and name."""
    options = train_options(VARIANTS[name], seed, args)
    folder = args.runs_dir / sha256(" ".join(options).encode()).hexdigest()[:16]
    train(folder, options)
    report = other_domains_report(load_detector(str(folder)), load_pairs(str(args.data / OTHER_FILE)))
    validation = json.loads((folder / "validation_metrics.json").read_text(encoding="utf-8"))
    return {"validation": {heading: validation[figure] for heading, figure in VALIDATION.items()}} | {
        source: {heading: row[figure] for heading, figure in OTHER_DOMAINS.items()}
        for source, row in report.items()
        if isinstance(row, dict) and None not in row.values()  # of a source with one kind of pairs, not all are known
    }


def read_runs(path: Path, setting: dict) -> dict[str, dict[str, dict]]:
    """The figures of the runs that an earlier report holds, by variant and seed.

    Args:
        path: of the report; there may be none yet.
        setting: what all runs of a report share.

    Raises:
        UsageError: when the file is no report, or its setting is another one.
    """
    if not path.exists():
        return {name: {} for name in VARIANTS}
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        known = earlier["variants"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: no report of this command; move it away.") from None
    if not setting.items() <= earlier.items():
        raise UsageError(f"{path}: its runs are of another setting; name another --output_dir.")
    return {
        name: known[name]["runs"] if name in known and known[name]["options"] == options else {}
        for name, options in VARIANTS.items()
    }


def write_report(path: Path, setting: dict, seeds: list[str], runs: dict[str, dict[str, dict]]) -> dict:
    """Write and return all runs, and the summary of each variant that was run with every seed."""
    report = setting | {"seeds": seeds, "variants": {}}
    for name in filter(runs.get, VARIANTS):
        report["variants"][name] = {"options": VARIANTS[name], "runs": runs[name]}
        if runs[name].keys() >= set(seeds):
            own, base = ([runs[of][seed] for seed in seeds] for of in (name, BASE))
            report["variants"][name]["figures"] = summarise(own, base)
    write_whole(path, (json.dumps(report, indent=2) + "\n").encode())
    return report


def summarise(runs: list[dict], base: list[dict]) -> dict:
    """Each figure of a variant over the seeds: its mean and standard deviation, and the same of its gain over the base.

    One seed has no standard deviation: `None`.

    Args:
        runs: the figures of each seed.
        base: those of the unchanged method, at the same seeds.
    """

    def spread(values: list[float]) -> dict[str, Any]:
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}

    return {
        group: {
            heading: spread([run[group][heading] for run in runs])
            | {"gain": spread([run[group][heading] - own[group][heading] for run, own in zip(runs, base, strict=True)])}
            for heading in figures
        }
        for group, figures in base[0].items()
    }


def as_markdown(report: dict) -> str:
    """A table for validation, for all other domains and for each source of theirs."""
    parts = [
        f"{report['rows']:,} training rows, seeds {', '.join(report['seeds'])}: means × 100, ± the standard deviation "
        "over the seeds. Validation first, then all pairs from other domains, then by their source."
    ]
    summaries = {name: row["figures"] for name, row in report["variants"].items() if "figures" in row}
    for group, headings in summaries[BASE].items():
        rows = [
            [name, *map(_percent, figures[group].values()), _percent(figures[group]["AUPRC"]["gain"])]
            for name, figures in summaries.items()
        ]
        parts += [f"## {group.replace('_', ' ')}", markdown_table(["variant", *headings, "gain in AUPRC"], rows)]
    return "\n\n".join(parts) + "\n"


def _percent(figure: dict[str, Any]) -> str:
    mean, std = f"{100 * figure['mean']:.1f}", figure["std"]
    return mean if std is None else f"{mean} ± {100 * std:.1f}"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the project's data files")
    parser.add_argument("--encoder", required=True, help="the encoder that all variants start from")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/variants"), help="the runs' folders and logs")
    parser.add_argument("--rows", type=int, default=7000, help="training rows of each run")
    parser.add_argument("--max_length", type=int, default=256, help="tokens of a pair")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=["0", "1", "2"])
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS], help="these variants, beside the first")
    return parser


def seed_number(text: str) -> str:
    """A seed's number, as the report's keys have it."""
    return str(int(text))


def main(args: argparse.Namespace):
    """Make the runs that are missing, and write the report after each."""
    make_folder("--runs_dir", args.runs_dir)
    make_folder("--output_dir", args.output_dir)
    check_writable("--output_dir", args.output_dir, ["variants.json", "variants.md"])
    if missing := [name for name in DATA_FILES if not (args.data / name).is_file()]:
        raise UsageError(f"--data {args.data}: no {', '.join(missing)} in it.")
    setting = {
        "rows": args.rows,
        "max_length": args.max_length,
        "common": COMMON,
        "encoder": weights_digest(args.encoder) or args.encoder,
        "data": {name: sha256((args.data / name).read_bytes()).hexdigest() for name in DATA_FILES},
    }
    path = args.output_dir / "variants.json"
    runs = read_runs(path, setting)
    for name in [BASE, *(args.only or VARIANTS)]:
        for seed in args.seeds:
            if seed not in runs[name]:
                runs[name][seed] = measure(name, seed, args)
                write_report(path, setting, args.seeds, runs)
    report = write_report(path, setting, args.seeds, runs)
    path.with_suffix(".md").write_text(as_markdown(report), encoding="utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    run("variants.py", lambda: main(make_parser().parse_args()))
