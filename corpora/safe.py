"""Harmless rows, pairs or prompts alone: all-zero labels against false alarms."""

import random
import re
from collections.abc import Sequence

from datasets import Dataset, concatenate_datasets

from corpora.beavertails import FEATURES
from corpora.records import optional_text_column, read_rows, text_column

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def load_safe(path: str, categories: Sequence[str]) -> Dataset:
    """The rows of a local file as pairs whose labels are all zero; a row without a response stands alone.

    Raises:
        CorpusError: for a file without rows, or a row with an empty prompt.
    """
    zeros = [0.0] * len(categories)
    rows = [
        {
            "prompt": text_column(place, row, "prompt"),
            "response": optional_text_column(place, row, "response") or None,  # a csv cell can be empty
            "labels": zeros,
            "labels_mean": zeros,
        }
        for place, row in read_rows(path)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def crop_response(response: str, words: int) -> str:
    """The leading whole sentences of `response` that keep within `words` words; its first sentence at least."""
    response = response.strip()
    ends = [boundary.start() for boundary in SENTENCE_END.finditer(response)] + [len(response)]
    fitting = [end for end in ends if len(response[:end].split()) <= words]
    return response[: max(fitting, default=ends[0])]


def match_lengths(safe: Dataset, reference: Dataset, seed: int) -> Dataset:
    """Crop each safe response to a length drawn from the reference's responses, so that length tells nothing.

    Args:
        safe: rows, some of them prompts alone.
        reference: rows with responses.
        seed: of the draw.
    """
    lengths = [len(response.split()) for response in reference["response"] if response is not None]
    draw = random.Random(seed)

    def crop(row: dict) -> dict:
        words = draw.choice(lengths)
        return {"response": None if row["response"] is None else crop_response(row["response"], words)}

    return safe.map(crop, load_from_cache_file=False)


def sample_evenly(files: Sequence[Dataset], rows: int, seed: int) -> Dataset:
    """`rows` rows, at most, drawn from all files, as evenly as their sizes allow."""
    remaining = sorted(files, key=len)
    parts = []
    for index, file in enumerate(remaining):
        share = min(len(file), rows // (len(remaining) - index))
        parts.append(file.shuffle(seed=seed).select(range(share)))
        rows -= share
    return concatenate_datasets(parts)
