"""BeaverTails: prompt-response pairs with 14 risk labels, from the Hub or from local files."""

from collections.abc import Sequence

from datasets import Dataset, Features, List, Value

from corpora.records import CorpusError, json_column, optional_text_column, text_column
from corpora.sources import source_rows

HUB_NAME = "PKU-Alignment/BeaverTails"

FEATURES = Features(
    {
        "prompt": Value("string"),
        "response": Value("string"),  # null: the prompt stands alone
        "labels": List(Value("float32")),
        "labels_mean": List(Value("float32")),
    }
)


def load_beavertails(source: str, categories: Sequence[str], split: str = "330k_train") -> Dataset:
    """Labelled pairs as a data set with the columns of `FEATURES`.

    Both column forms are read: upstream's `category`, an object of 14 booleans, and our `labels`, a list of 0/1.
    `labels_mean`, the mean over several annotators, is `labels` where the file has none.

    Args:
        source: a jsonl, json, csv or parquet file, or a data set's name on the Hub.
        categories: the taxonomy, in label order.
        split: which split of a Hub data set.

    Raises:
        CorpusError: for a source that isn't there, or a row without a needed column, with a wrong number of labels,
            or with an empty prompt.
    """
    pairs = [_read_pair(place, row, categories) for place, row in source_rows(source, split)]
    return Dataset.from_list(pairs, features=FEATURES)


def _read_pair(place: str, row: dict, categories: Sequence[str]) -> dict:
    labels = _read_labels(place, row, categories)
    labels_mean = json_column(place, row, "labels_mean")
    response = optional_text_column(place, row, "response")
    if response is None:
        raise CorpusError(f"{place}: column 'response' is missing.")
    return {
        "prompt": text_column(place, row, "prompt"),
        "response": response,
        "labels": labels,
        "labels_mean": labels if labels_mean is None else _check_labels(place, "labels_mean", labels_mean, categories),
    }


def _read_labels(place: str, row: dict, categories: Sequence[str]) -> list[float]:
    labels = json_column(place, row, "labels")
    if labels is not None:
        return _check_labels(place, "labels", labels, categories)
    category = json_column(place, row, "category")
    if not isinstance(category, dict):
        raise CorpusError(f"{place}: needs a column 'labels' (a list) or 'category' (an object of booleans).")
    if set(category) != set(categories):
        odd = sorted(set(category) ^ set(categories))
        raise CorpusError(f"{place}: 'category' must hold the {len(categories)} categories; {odd[0]!r} doesn't match.")
    return _check_labels(place, "category", [category[name] for name in categories], categories)


def _check_labels(place: str, column: str, labels, categories: Sequence[str]) -> list[float]:
    if not isinstance(labels, list) or len(labels) != len(categories):
        found = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise CorpusError(f"{place}: '{column}' must be a list of {len(categories)} labels, got {found}.")
    if not all(isinstance(label, int | float) and 0 <= label <= 1 for label in labels):
        raise CorpusError(f"{place}: each of '{column}' must lie in [0, 1].")
    return [float(label) for label in labels]
