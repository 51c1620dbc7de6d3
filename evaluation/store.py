"""A run's folder: a manifest, and answers, scores and measures in one file that only grows, of whole lines."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from file_lock import lock
from whole_file import write_whole

VERSION = 2
MANIFEST, RECORDS, LOCK = "manifest.json", "records.jsonl", "lock"

_ANSWER_KEY = {"method": str, "backbone": str, "sample": int}
_KEYS: dict[str, dict[str, type]] = {
    "answer": _ANSWER_KEY,
    "score": _ANSWER_KEY | {"judge": str, "rubric": str},
    "measure": _ANSWER_KEY,
}
_RECORD_START = b'{"kind": "'

Key = tuple[str | int, ...]


class StoreError(UserError):
    """A run folder that can't be used, is in use, or holds another run."""


@dataclass(frozen=True)
class Run:
    """What a run has come to: of each key the last record, where that has no error.

    Args:
        manifest: `version`, `fixed` and `sessions`, of which there is at least one.
        answers: by method, backbone and sample.
        scores: by method, backbone, sample, judge and rubric; an unscored reply is among them.
        measures: by method, backbone and sample.
        failed_answers: the error of each key whose last answer has one.
        failed_scores: the same of the scores.
    """

    manifest: dict[str, Any]
    answers: dict[Key, dict[str, Any]]
    scores: dict[Key, dict[str, Any]]
    measures: dict[Key, dict[str, Any]]
    failed_answers: dict[Key, str]
    failed_scores: dict[Key, str]


class _Records:
    """What a run's lines come to: by kind and key the last record where it has no error, and else the error."""

    def __init__(self) -> None:
        self.finished: dict[str, dict[Key, dict[str, Any]]] = {kind: {} for kind in _KEYS}
        self.failed: dict[str, dict[Key, str]] = {kind: {} for kind in _KEYS}

    def take(self, record: dict[str, Any]):
        """Let a record stand for its key, in the place of earlier ones."""
        kind, key, error = record["kind"], _key(record), record.get("error")
        self.finished[kind].pop(key, None)
        self.failed[kind].pop(key, None)
        if error is None:
            self.finished[kind][key] = record
        else:
            self.failed[kind][key] = error


class RunStore:
    """A run to add to, locked until the context ends; `answers`, `scores` and `measures` are as in [`Run`].

    Args:
        folder: is made where there is none.
        fixed: what may not change within a run, as JSON. Its objects may get new keys, a session may leave keys out,
            and lists may go on at their end.
        session: of this opening, for the manifest, as JSON.

    Raises:
        StoreError: when another process works on the run, `fixed` is not the run's, or the folder can't be used.
    """

    def __init__(self, folder: Path, fixed: dict[str, Any], session: dict[str, Any]):
        with ExitStack() as opened, _told_of(folder):
            folder.mkdir(parents=True, exist_ok=True)
            opened.enter_context(_locked(folder))
            manifest = _continue_manifest(folder, fixed, session)
            self._records, end = _read_records(folder)
            _write_manifest(folder, manifest)
            self._path = folder / RECORDS
            # Unbuffered: each record is one write, and a failed one leaves nothing behind to be written later.
            self._file = opened.enter_context(self._path.open("ab", buffering=0))
            self._file.truncate(end)  # cuts off what a killed process left of its last line
            self._opened = opened.pop_all()
        self.answers, self.scores, self.measures = (self._records.finished[kind] for kind in _KEYS)

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *raised):
        self._opened.close()

    def append(self, record: dict[str, Any]):
        """Add a record, whole or not at all.

        Args:
            record: JSON of one of the three kinds.

        Raises:
            ValueError: for another kind, a key that lacks a part, or a number that JSON hasn't.
            StoreError: when the file can't be written any more.
        """
        _key(record)
        line = json.dumps({"kind": record["kind"], **record}, allow_nan=False).encode() + b"\n"
        with _told_of(self._path):
            end = os.fstat(self._file.fileno()).st_size
            rest = line
            try:
                while rest:  # a full disk takes some of it, and says so the second time
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(end)
                raise
        self._records.take(json.loads(line))


def read_run(folder: Path) -> Run:
    """A run as it stands, whether or not a process is adding to it.

    Raises:
        StoreError: when the folder holds no run, or what it holds can't be read.
    """
    with _told_of(folder):
        if not (folder / MANIFEST).exists():
            raise StoreError(f"{folder}: holds no run; `evaluate_lance.py compare` makes one.")
        records, _ = _read_records(folder)
        answers, scores, measures = (records.finished[kind] for kind in _KEYS)
        failed = records.failed
        return Run(_read_manifest(folder), answers, scores, measures, failed["answer"], failed["score"])


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Make the system's refusals the user's errors."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}.") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run."""
    with (folder / LOCK).open("a+") as file:
        if not lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StoreError(
                f"{folder}: another process (pid {holder}) works on this run; wait for it, or name another folder."
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _continue_manifest(folder: Path, fixed: dict[str, Any], session: dict[str, Any]) -> dict[str, Any]:
    """The folder's manifest, or a first one, with one more session."""
    if (folder / MANIFEST).exists():
        manifest = _read_manifest(folder)
        manifest["fixed"] = _grown(folder, manifest["fixed"], json.loads(json.dumps(fixed)))
    elif (folder / RECORDS).exists():
        raise StoreError(f"{folder / RECORDS}: has no {MANIFEST} beside it, so it is no run's; name another folder.")
    else:
        manifest = {"version": VERSION, "fixed": fixed, "sessions": []}
    return manifest | {"sessions": [*manifest["sessions"], session]}


def _grown(folder: Path, fixed: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What is fixed from now on."""
    return {name: _merge(folder, name, fixed.get(name), asked.get(name)) for name in asked | fixed}


def _merge(folder: Path, name: str, fixed: Any, asked: Any) -> Any:
    match fixed, asked:
        case dict(), dict():
            shared = [key for key in fixed if key in asked]
            return fixed | asked | {key: _merge(folder, f"{name}.{key}", fixed[key], asked[key]) for key in shared}
        case list(), list() if asked[: len(fixed)] == fixed:
            return asked
    if fixed != asked:
        raise StoreError(
            f"{folder}: this run was begun with {name} {fixed!r}, not {asked!r}; "
            "go on with the former, or use another --run_dir."
        )
    return fixed


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    match manifest:
        case {"version": int(version)} if version != VERSION:
            raise StoreError(f"{path}: of version {version}, which this code can't read; name another folder.")
        case {"version": int(), "fixed": dict(), "sessions": [_, *_]}:
            return manifest
    raise StoreError(f"{path}: is no manifest of a run; name another folder.")


def _write_manifest(folder: Path, manifest: dict[str, Any]):
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _read_records(folder: Path) -> tuple[_Records, int]:
    """The records, and where the last whole line ends, in bytes; nothing is changed."""
    records = _Records()
    path, end = folder / RECORDS, 0
    if not path.exists():
        return records, end
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                records.take(_parse(path, number, line))
                end += len(line)
            # Only the beginning of a record can be a torn line; anything else is someone's text.
            elif not (line.startswith(_RECORD_START) or _RECORD_START.startswith(line)):
                raise _foreign(path, number)
    return records, end


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        _key(record)
    except (ValueError, RecursionError):
        raise _foreign(path, number) from None
    return record


def _foreign(path: Path, number: int) -> StoreError:
    return StoreError(f"{path}, line {number}: is no record of a run; mend or remove the line, or name another folder.")


def _key(record: Any) -> Key:
    """What the record is found by.

    Raises:
        ValueError: when it is no record.
    """
    match record:
        case {"kind": str(kind)} if kind in _KEYS:
            key = tuple(record.get(name) for name in _KEYS[kind])
            if [type(part) for part in key] == list(_KEYS[kind].values()):
                return key
    raise ValueError(f"not a record: {str(record)[:100]!r}.")
