"""Fit the independent classifier, and measure it on pairs from elsewhere.

    python -m benchmarks.independent --data ../shared/data --output_dir benchmarks/results

Its training rows are those that train.py holds out of BeaverTails and of the safe files, with the same share and seed,
and BeaverTails' uncategorised unsafe rows. Harmful pairs come from BeaverTails alone, so its few safe ones have to
weigh as much: else the classifier tells BeaverTails from the rest. How much the safe files count beside them, and the
regularisation, are chosen by cross-validation. Writes the weights and independent.json.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from datasets import Dataset, concatenate_datasets
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from command_line import OneLineErrors, make_folder, run
from configuration_lance import BEAVERTAILS_CATEGORIES
from corpora.beavertails import load_beavertails
from corpora.pairs import load_pairs
from corpora.records import read_rows
from corpora.safe import load_safe
from corpora.splits import normalise, split_by_prompt
from evaluation.independent import WEIGHTS, IndependentClassifier, PairFeatures
from train import DataArguments, LanceTrainingArguments

HELD_OUT = DataArguments().validation_share
SEED = LanceTrainingArguments().seed
MAX_LENGTH = 512  # tokens of a pair that it reads; the weights keep it
FOLDS = 3
SHARES = (0.1, 0.25, 0.5)  # of the safe files in the weight of all safe pairs
STRENGTHS = (0.0001, 0.0003, 0.001, 0.003)
SAFE_FILES = ("safe_pairs.jsonl", "safe_responses_to_risky.jsonl")


@dataclass(frozen=True)
class Rows:
    """Labelled pairs.

    Args:
        prompts: one a pair.
        responses: one a pair.
        harmful: of shape `(pairs,)`, bool.
        elsewhere: of shape `(pairs,)`, bool: not from BeaverTails.
    """

    prompts: list[str]
    responses: list[str]
    harmful: np.ndarray
    elsewhere: np.ndarray

    def importance(self, share_elsewhere: float) -> np.ndarray:
        """Weights by which harmful and safe pairs count alike, of the safe ones this share from elsewhere."""
        harmful, elsewhere = self.harmful, self.elsewhere
        importance = np.where(harmful, 1 / harmful.sum(), (1 - share_elsewhere) / (~harmful & ~elsewhere).sum())
        importance[elsewhere] = share_elsewhere / elsewhere.sum()
        return importance * len(harmful) / 2


def training_rows(data: Path) -> Rows:
    """What the classifier learns from."""
    labelled = load_beavertails(str(data / "beavertails_train.jsonl"), BEAVERTAILS_CATEGORIES)
    _, held_out = split_by_prompt(labelled, HELD_OUT, SEED)
    uncategorised = Dataset.from_list([row for _, row in read_rows(data / "beavertails_unsafe_uncategorised.jsonl")])
    files = [load_safe(str(data / name), BEAVERTAILS_CATEGORIES) for name in SAFE_FILES]
    safe = concatenate_datasets([split_by_prompt(file, HELD_OUT, SEED)[1] for file in files])
    safe = safe.filter(lambda row: row["response"] is not None, load_from_cache_file=False)
    sources = (held_out, uncategorised, safe)
    harmful = [max(labels) > 0.5 for labels in held_out["labels"]] + [True] * len(uncategorised) + [False] * len(safe)
    return Rows(
        [prompt for source in sources for prompt in source["prompt"]],
        [response for source in sources for response in source["response"]],
        np.array(harmful),
        np.arange(len(harmful)) >= len(held_out) + len(uncategorised),
    )


def cross_validate(
    features: PairFeatures, rows: Rows, inputs: np.ndarray, share_elsewhere: float, strength: float
) -> dict[str, float]:
    """AUROC of the harmful pairs against the safe ones of either origin, on prompts that the fit hasn't seen.

    Args:
        features: what made the inputs.
        rows: the pairs.
        inputs: of shape `(pairs, features)`.
        share_elsewhere: see [`Rows.importance`].
        strength: see [`IndependentClassifier.fit`].
    """
    importance = rows.importance(share_elsewhere)
    risk = np.empty(len(inputs))
    prompts = [normalise(prompt) for prompt in rows.prompts]
    for rest, fold in GroupKFold(FOLDS, shuffle=True, random_state=SEED).split(inputs, groups=prompts):
        fitted = IndependentClassifier.fit(features, inputs[rest], rows.harmful[rest], importance[rest], strength)
        risk[fold] = fitted.score(inputs[fold])
    safe_of = {"beavertails": ~rows.harmful & ~rows.elsewhere, "elsewhere": rows.elsewhere}
    return {
        origin: float(roc_auc_score(rows.harmful[rows.harmful | safe], risk[rows.harmful | safe]))
        for origin, safe in safe_of.items()
    }


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
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the fitted weights go")
    return parser


def main(args: argparse.Namespace):
    """Choose, fit, keep the weights, and report."""
    make_folder("--output_dir", args.output_dir)
    rows = training_rows(args.data)
    features = PairFeatures(MAX_LENGTH)
    inputs = features(rows.prompts, rows.responses)
    settings = [(share, strength) for share in SHARES for strength in STRENGTHS]
    auroc = [cross_validate(features, rows, inputs, share, strength) for share, strength in settings]
    best = max(range(len(settings)), key=lambda place: sum(auroc[place].values()))
    share, strength = settings[best]
    classifier = IndependentClassifier.fit(features, inputs, rows.harmful, rows.importance(share), strength)
    classifier.save(args.weights)
    test = load_beavertails(str(args.data / "beavertails_test.jsonl"), BEAVERTAILS_CATEGORIES)
    others = load_pairs(str(args.data / "other_domains_dev.jsonl"))
    report = {
        "max_length": MAX_LENGTH,
        "trained_on": {
            "harmful": int(rows.harmful.sum()),
            "safe": int((~rows.harmful & ~rows.elsewhere).sum()),
            "safe_elsewhere": int(rows.elsewhere.sum()),
        },
        "tried": [
            {"share_elsewhere": share, "strength": strength, "auroc": figure}
            for (share, strength), figure in zip(settings, auroc, strict=True)
        ],
        "chosen": {"share_elsewhere": share, "strength": strength},
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
