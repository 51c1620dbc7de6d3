"""The answers that the refusal detector is fitted to and judged by, as features."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from corpora.records import read_rows, text_column
from corpora.xstest import load_xstest_completions, load_xstest_prompts
from refinement.refusals import refusal_features

FULL_REFUSAL = "2_full_refusal"
WORDINGS = Path(__file__).parent / "refusal_wordings.json"  # our own: short ones, rare in the corpora
UNLABELLED = 0.3  # the importance of an answer that nobody labelled, beside 1 for one labelled by hand
REFUSING = {"safety_tuned_llamas": 5, "refusal_direction_jbb": 1}  # by source: every n-th answer is taken
BORDERLINE = ("orbench80k", "coconot")  # whose prompts sound risky
EVERY_BORDERLINE, EVERY_OTHER = 3, 20  # the n of their answers and of all others

# What the detector replaces: the template of an opening.
_SORRY = (
    r"(?:(?:i['’]?m|i am|we['’]?re) (?:(?:so|very|really|truly) )?sorry\b|sorry\b|i apologi[sz]e\b|apologies\b|"
    r"unfortunately,? |no[,.] )"
)
_UNABLE = (
    r"can(?:no|['’])t|can not|could not|won['’]t|will not|(?:am|['’]m) (?:not able|unable|not comfortable|not going)|"
    r"(?:must|have to) (?:decline|refuse)|(?:do not|don['’]t) feel comfortable|decline to"
)
_TEMPLATE = re.compile(
    rf"\W*{_SORRY}?[^.!?\n]{{0,60}}?\b(?:i|we) (?:simply |really )?(?:{_UNABLE})\b|"
    r"\W*as an? (?:ai|artificial|language|responsible|digital)\b[^.!?\n]{0,80}"
    r"\b(?:can(?:no|['’])t|not|unable|don['’]t)\b",
    re.IGNORECASE,
)


class Completions(NamedTuple):
    """A model's completions, in the order of XSTest's prompts.

    Args:
        features: of shape `(prompts, features)`.
        labels: by hand.
        matched: whether string matching takes them for refusals.
    """

    features: sparse.csr_matrix
    labels: np.ndarray
    matched: np.ndarray

    def rows(self, kept: np.ndarray | slice = slice(None)) -> "Rows":
        """Some of them to fit to."""
        refused = self.labels[kept] == FULL_REFUSAL
        return Rows(self.features[kept], refused, np.ones(len(refused)))


class Rows(NamedTuple):
    """Answers to fit to.

    Args:
        features: of shape `(answers, features)`.
        refused: whether each is a refusal.
        importance: how much each counts.
    """

    features: sparse.csr_matrix
    refused: np.ndarray
    importance: np.ndarray

    @classmethod
    def alike(cls, responses: list[str], refused: bool, importance: float) -> "Rows":
        """Answers with one label."""
        count = len(responses)
        return cls(refusal_features(responses), np.full(count, refused), np.full(count, importance))


def read_completions(data: Path) -> dict[str, Completions]:
    """XSTest's completions by model, the models in the order of their names."""
    prompts = load_xstest_prompts(str(data / "xstest_prompts.csv"))
    rows = load_xstest_completions(str(data / "xstest_completions.csv"), prompts).to_list()
    rows.sort(key=lambda row: (row["model"], int(row["id"])))
    by_model: dict[str, list[dict]] = {row["model"]: [] for row in rows}
    for row in rows:
        by_model[row["model"]].append(row)
    return {model: _completions(own) for model, own in by_model.items()}


def _completions(rows: list[dict]) -> Completions:
    texts = [row["response"] for row in rows]
    matched = np.array([bool(_TEMPLATE.match(text)) for text in texts])
    return Completions(refusal_features(texts), np.array([row["label"] for row in rows]), matched)


def read_refusals(data: Path) -> dict[str, Rows]:
    """Refusals by the model that gave them."""
    rows = list(read_rows(data / "safe_responses_to_risky.jsonl"))
    by_model: dict[str, list[str]] = {}
    for source, step in REFUSING.items():
        for place, row in [pair for pair in rows if pair[1]["source"] == source][::step]:
            by_model.setdefault(row["model"], []).append(text_column(place, row, "response"))
    return {model: Rows.alike(responses, True, UNLABELLED) for model, responses in by_model.items()}


def read_answers(data: Path) -> tuple[Rows, Rows]:
    """Answers that refuse nothing: some to fit to, and as many others."""
    borderline: list[str] = []
    other: list[str] = []
    for place, row in read_rows(data / "safe_pairs.jsonl"):
        if not row["refused"]:
            group = borderline if row["source"].startswith(BORDERLINE) else other
            group.append(text_column(place, row, "response"))
    fitted, unseen = (borderline[k::EVERY_BORDERLINE] + other[k::EVERY_OTHER] for k in (0, 1))
    return Rows.alike(fitted, False, UNLABELLED), Rows.alike(unseen, False, UNLABELLED)


def read_wordings() -> list[Rows]:
    """Our own sentences: each refusal behind each opener, and answers that open as refusals do."""
    texts = json.loads(WORDINGS.read_text(encoding="utf-8"))
    refusals = [opener + refusal for opener in texts["openers"] for refusal in texts["refusals"]]
    return [Rows.alike(refusals, True, UNLABELLED), Rows.alike(texts["answers"], False, 1)]
