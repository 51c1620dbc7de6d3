"""Pairs labelled safe or harmful as a whole, each with its source."""

from datasets import Dataset

from corpora.records import CorpusError, json_column, optional_text_column, read_rows, text_column


def load_pairs(path: str) -> Dataset:
    """The pairs of a local file, as columns `prompt`, `response`, `is_safe`, `source`.

    Raises:
        CorpusError: for a file without rows, a missing column, or an `is_safe` that isn't true or false.
    """
    rows = []
    for place, row in read_rows(path):
        is_safe = json_column(place, row, "is_safe")
        if not isinstance(is_safe, bool):
            raise CorpusError(f"{place}: column 'is_safe' must be true or false, got {is_safe!r}.")
        rows.append(
            {
                "prompt": text_column(place, row, "prompt"),
                "response": optional_text_column(place, row, "response"),
                "is_safe": is_safe,
                "source": text_column(place, row, "source"),
            }
        )
    return Dataset.from_list(rows)
