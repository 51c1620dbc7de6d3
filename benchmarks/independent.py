"""Fit the independent classifier, and measure it on pairs from elsewhere.

    python -m benchmarks.independent --data ../shared/data --output_dir benchmarks/results

Its training rows are those that train.py holds out of BeaverTails and of the safe files, with the same share and seed,
and BeaverTails' uncategorised unsafe rows. Writes the weights and independent.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import transformers
from datasets import concatenate_datasets
from sklearn.metrics import average_precision_score, f1_score, recall_score

from command_line import OneLineErrors, make_folder, run
from configuration_lance import BEAVERTAILS_CATEGORIES
from corpora.beavertails import load_beavertails
from corpora.pairs import load_pairs
from corpora.safe import load_safe
from corpora.splits import split_by_prompt
from evaluation.independent import IndependentClassifier, PairFeatures

HELD_OUT = 0.1  # train.py's --validation_share
SEED = 42  # and its --seed
SAFE_FILES = ("safe_pairs.jsonl", "safe_responses_to_risky.jsonl")


def training_rows(data: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Prompts, responses and whether each pair is harmful."""
    labelled = load_beavertails(str(data / "beavertails_train.jsonl"), BEAVERTAILS_CATEGORIES)
    _, held_out = split_by_prompt(labelled, HELD_OUT, SEED)
    safe = [load_safe(str(data / name), BEAVERTAILS_CATEGORIES) for name in SAFE_FILES]
    rows = concatenate_datasets([held_out, *(split_by_prompt(file, HELD_OUT, SEED)[1] for file in safe)])
    rows = rows.filter(lambda row: row["response"] is not None, load_from_cache_file=False)
    harmful = [max(labels) > 0.5 for labels in rows["labels"]]
    uncategorised = [
        json.loads(line) for line in (data / "beavertails_unsafe_uncategorised.jsonl").read_text("utf-8").splitlines()
    ]
    prompts = rows["prompt"][:] + [row["prompt"] for row in uncategorised]
    responses = rows["response"][:] + [row["response"] for row in uncategorised]
    return prompts, responses, np.array(harmful + [True] * len(uncategorised))


def figures(risk: np.ndarray, harmful: np.ndarray) -> dict[str, float]:
    """How it does on other pairs, at 0.5."""
    flagged = risk > 0.5
    return {
        "n": len(risk),
        "auprc": float(average_precision_score(harmful, risk)),
        "f1": float(f1_score(harmful, flagged)),
        "recall": float(recall_score(harmful, flagged)),
        "fpr": float(flagged[~harmful].mean()),
    }


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the project's data files")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser


def main(args: argparse.Namespace):
    """Fit, keep the weights, and report."""
    make_folder("--output_dir", args.output_dir)
    prompts, responses, harmful = training_rows(args.data)
    features = PairFeatures()
    classifier = IndependentClassifier.fit(features, features(prompts, responses), harmful)
    classifier.save()
    test = load_beavertails(str(args.data / "beavertails_test.jsonl"), BEAVERTAILS_CATEGORIES)
    others = load_pairs(str(args.data / "other_domains_dev.jsonl"))
    report = {
        "trained_on": {"harmful": int(harmful.sum()), "safe": int((~harmful).sum())},
        "beavertails_test": figures(
            classifier.risk(test["prompt"], test["response"]), np.array([max(row) > 0.5 for row in test["labels"]])
        ),
        "other_domains": figures(
            classifier.risk(others["prompt"], [response or "" for response in others["response"]]),
            ~np.array(others["is_safe"]),
        ),
    }
    (args.output_dir / "independent.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    run("independent.py", lambda: main(make_parser().parse_args()))
