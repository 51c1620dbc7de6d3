"""Where rows come from: a local file, or a split of a data set on the Hub."""

from collections.abc import Iterable

from datasets import load_dataset
from datasets.exceptions import DatasetsError

from corpora.records import CorpusError, is_local, read_rows
from errors import first_line


def source_rows(source: str, split: str) -> Iterable[tuple[str, dict]]:
    """Each row with its place, "SOURCE, row N", from 1.

    Args:
        source: a jsonl, json, csv or parquet file, or a data set's name on the Hub.
        split: which split of a Hub data set.

    Raises:
        CorpusError: for a source that isn't there or has no rows, or a row that doesn't parse.
    """
    if is_local(source):
        return read_rows(source)
    try:
        rows = load_dataset(source, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = f"no file, and the Hub gives no split {split} of it ({first_line(error)})"
        raise CorpusError(f"{source}: {reason}.") from None
    if not len(rows):
        raise CorpusError(f"{source} ({split}): no rows.")
    return ((f"{source} ({split}), row {number}", row) for number, row in enumerate(rows, start=1))
