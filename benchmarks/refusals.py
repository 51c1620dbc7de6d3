"""Fit the refusal detector, and measure it on the completions of models that it never saw.

    python -m benchmarks.refusals --data ../shared/data --output_dir benchmarks/results

It is fitted to three models' XSTest completions, labelled by hand, and to other answers, labelled by where they come
from; and reported on the remaining models. All of them answer the same prompts, so a label could be told from a topic's
words: the figures named "unseen_prompts" hold those prompts out too. Writes the weights and refusals.json.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.metrics import f1_score, precision_score, recall_score

from benchmarks.refusal_rows import (
    FULL_REFUSAL,
    Completions,
    Rows,
    read_answers,
    read_completions,
    read_refusals,
    read_wordings,
)
from command_line import OneLineErrors, make_folder, run
from evaluation.bootstrap import interval
from refinement.refusals import WEIGHTS, RefusalDetector

DESIGN_MODELS = 3  # the first ones by name
FOLDS = 5


def fit(parts: list[Rows]) -> RefusalDetector:
    """The detector fitted to all parts together."""
    features, refused, importance = zip(*parts, strict=True)
    stacked = sparse.vstack(features, format="csr")
    return RefusalDetector.fit(stacked, np.concatenate(refused), np.concatenate(importance))


def detect_unseen(judged: Completions, fitted: list[Completions], others: list[Rows]) -> np.ndarray:
    """The refusals found in a model's completions by detectors fitted without that completion's prompt."""
    fold = np.arange(len(judged.labels)) % FOLDS
    found = np.empty(len(fold), dtype=bool)
    for held_out in range(FOLDS):
        kept = fold != held_out
        detector = fit([*(completions.rows(kept) for completions in fitted), *others])
        found[~kept] = detector.detect_features(judged.features[~kept])
    return found


def figures(completions: list[Completions], found: list[np.ndarray]) -> dict:
    """How well full refusals are found; the interval is over the prompts, which all models answer."""
    labels, flagged = np.column_stack([one.labels for one in completions]), np.column_stack(found)  # (prompts, models)
    refused = labels == FULL_REFUSAL
    counts, hits = Counter(labels.ravel().tolist()), Counter(labels[flagged].tolist())
    return {
        "f1": _f1(refused, flagged),
        "f1_interval": interval(_f1, refused, flagged),
        "precision": float(precision_score(refused.ravel(), flagged.ravel(), zero_division=0)),
        "recall": float(recall_score(refused.ravel(), flagged.ravel(), zero_division=0)),
        "flagged": {label: {"n": counts[label], "share": hits[label] / counts[label]} for label in sorted(counts)},
    }


def _f1(refused: np.ndarray, flagged: np.ndarray) -> float:
    return float(f1_score(refused.ravel(), flagged.ravel(), zero_division=0))


def by_model(completions: dict[str, Completions], found: dict[str, np.ndarray]) -> dict[str, dict]:
    """The figures of the models together, and of each."""
    together = figures([completions[model] for model in found], list(found.values()))
    return {"together": together} | {model: figures([completions[model]], [found[model]]) for model in found}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the project's data files")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the fitted weights go")
    return parser


def main(args: argparse.Namespace):
    """Fit, keep the weights, and report."""
    make_folder("--output_dir", args.output_dir)
    completions, refusals = read_completions(args.data), read_refusals(args.data)
    answers, unseen_answers = read_answers(args.data)
    others = [*refusals.values(), answers, *read_wordings()]
    design, reported = list(completions)[:DESIGN_MODELS], list(completions)[DESIGN_MODELS:]
    designed = [completions[model] for model in design]

    detector = fit([*(one.rows() for one in designed), *others])
    detector.save(args.weights)
    report = {
        "fitted_to": {"completions_of": design, **_counts(others)},
        "reported": by_model(
            completions, {model: detector.detect_features(completions[model].features) for model in reported}
        ),
        "reported_unseen_prompts": by_model(
            completions, {model: detect_unseen(completions[model], designed, others) for model in reported}
        ),
        "design_unseen_model_and_prompts": by_model(
            completions,
            {
                model: detect_unseen(completions[model], [completions[m] for m in design if m != model], others)
                for model in design
            },
        ),
        "string_matching": {
            "reported": by_model(completions, {model: completions[model].matched for model in reported}),
            "design": by_model(completions, {model: completions[model].matched for model in design}),
        },
        "flagged_elsewhere": {
            "answers": {"n": len(unseen_answers.refused), "share": _share(detector, unseen_answers)},
            "refusals_of_unseen_model": {
                model: {
                    "n": len(rows.refused),
                    "share": _share(fit([*(one.rows() for one in designed), *_without(others, rows)]), rows),
                }
                for model, rows in refusals.items()
            },
        },
    }
    (args.output_dir / "refusals.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["reported"], indent=2))


def _counts(parts: list[Rows]) -> dict[str, int]:
    refused = np.concatenate([rows.refused for rows in parts])
    return {"other_refusals": int(refused.sum()), "other_answers": int((~refused).sum())}


def _share(detector: RefusalDetector, rows: Rows) -> float:
    return float(detector.detect_features(rows.features).mean())


def _without(parts: list[Rows], left_out: Rows) -> list[Rows]:
    return [rows for rows in parts if rows is not left_out]


if __name__ == "__main__":
    run("refusals.py", lambda: main(make_parser().parse_args()))
