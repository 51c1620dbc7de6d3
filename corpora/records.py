"""Rows from local files, with errors that name the file and the row."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet

from errors import UserError, first_line

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class CorpusError(UserError):
    """A file or row that can't be used; the message names it and says what was expected."""


def is_local(source: str) -> bool:
    """Whether `source` names a file (by its ending or because it exists) rather than a data set on the Hub."""
    return Path(source).suffix in SUFFIXES or Path(source).exists()


def read_rows(path: str | Path) -> Iterator[tuple[str, dict]]:
    """Yield `(place, row)` for each row of a jsonl, json, csv or parquet file; `place` is "FILE, row N", from 1.

    Raises:
        CorpusError: for a missing file, another ending, a row that doesn't parse, or no rows at all.
    """
    path, number = Path(path), 0
    if path.suffix not in SUFFIXES:
        raise CorpusError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise CorpusError(f"{path}: no such file.")
    try:
        for number, row in _parse(path):
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise CorpusError(f"{path}, row {number}: expected an object with named columns, got {kind}.")
            yield f"{path}, row {number}", row
        if not number:
            raise CorpusError(f"{path}: no rows.")
    except (OSError, UnicodeDecodeError, csv.Error, pyarrow.ArrowInvalid) as error:
        raise CorpusError(f"{path}: can't be read ({first_line(error)}).") from None


def _parse(path: Path) -> Iterable[tuple[int, dict]]:
    if path.suffix == ".jsonl":
        return _parse_jsonl(path)
    if path.suffix == ".csv":
        return _parse_csv(path)
    rows = _parse_json(path) if path.suffix == ".json" else pyarrow.parquet.read_table(path).to_pylist()
    return enumerate(rows, start=1)


def _parse_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{path}, row {number}: not JSON ({error}).") from None


def _parse_json(path: Path) -> list[dict]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: not JSON ({error}).") from None
    if not isinstance(rows, list):
        raise CorpusError(f"{path}: expected a JSON list of objects.")
    return rows


def _parse_csv(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is shorter than some answers
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from enumerate(csv.DictReader(lines), start=1)


def text_column(place: str, row: dict, column: str) -> str:
    """The non-blank text of `row[column]`.

    Raises:
        CorpusError: when the column is missing, not text, or blank.
    """
    value = optional_text_column(place, row, column)
    if value is None or not value.strip():
        raise CorpusError(f"{place}: column '{column}' is missing or empty.")
    return value


def optional_text_column(place: str, row: dict, column: str) -> str | None:
    """The text of `row[column]`, or `None` where the row has none.

    Raises:
        CorpusError: when the column holds something else than text.
    """
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise CorpusError(f"{place}: column '{column}' must be text, got {type(value).__name__}.")
    if value is not None and not is_text(value):
        raise CorpusError(f"{place}: column '{column}' holds half of a broken escape.")
    return value


def is_text(value: str) -> bool:
    """Whether tokenizers and files take it: a lone surrogate, half of a broken escape, is no text."""
    return value.encode("utf-8", errors="ignore").decode("utf-8") == value


def json_column(place: str, row: dict, column: str):
    """The value of `row[column]`; text, as a csv file gives it, is read as JSON, and blank text is `None`.

    Raises:
        CorpusError: when the text is not JSON.
    """
    value = row.get(column)
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except (ValueError, RecursionError):
        raise CorpusError(f"{place}: column '{column}' must hold JSON, got {value[:40]!r}.") from None
