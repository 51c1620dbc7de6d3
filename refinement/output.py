"""The output file of a run: resumable, whole lines only, failed prompts tried again."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from errors import UserError
from file_lock import lock

_RECORD_START = b'{"line": '


class OutputError(UserError):
    """A file that can't be written, or that isn't this run's."""


class OutputFile:
    """One line a prompt, flushed; what an earlier run finished is kept and skipped, what failed is dropped.

    The file is this run's alone until the context ends.

    Args:
        path: the file; `None` keeps nothing.
        prompts: the input's prompts by line number.
        decision: the options that say when a pair is safe, by name, as JSON: each record holds them.

    Raises:
        OutputError: when the file can't be written, belongs to another input or another decision, or another process
            writes to it.
    """

    def __init__(self, path: Path | None, prompts: dict[int, str], decision: dict):
        self.path, self.decision = path, decision
        self.finished: dict[int, dict] = {}
        self._opened = ExitStack()
        if path is None:
            return
        try:
            whole, newline, torn = self._hold(path.open("a+b")).read().rpartition(b"\n")
            # Only the beginning of a record can be a torn line; anything else is someone's file.
            if not (torn.startswith(_RECORD_START) or _RECORD_START.startswith(torn)):
                raise OutputError(f"--output {path}: its last line was not written by refine.py; name a new file.")
            lines = whole.split(b"\n") if newline else []
            kept = [line for number, line in enumerate(lines, start=1) if self._keep(number, line, prompts)]
            if len(kept) < len(lines):
                self._replace(path, kept)
            elif torn:  # a run that was killed can leave half a line: cut it off, so that the next starts clean
                with path.open("r+b") as file:
                    file.truncate(len(whole) + len(newline))
        except OSError as error:
            raise OutputError(f"--output {path}: {error.strerror}.") from None

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(self, *raised):
        self._opened.close()

    def _hold(self, file: BinaryIO) -> BinaryIO:
        """Lock an open file, set to its beginning."""
        self._opened.enter_context(file)
        if not lock(file):
            raise OutputError(f"--output {self.path}: another process writes to it; wait for it, or name another file.")
        file.seek(0)
        return file

    def _keep(self, number: int, line: bytes, prompts: dict[int, str]) -> bool:
        """Take up a finished record; whether the line stays."""
        try:
            record = json.loads(line)
            fields = {name: record[name] for name in ("prompt", "converged", "error")} | {"line": int(record["line"])}
            decision = dict(record["decision"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise OutputError(
                f"--output {self.path}, line {number}: not written by refine.py; name a new file."
            ) from None
        if prompts.get(fields["line"]) != fields["prompt"]:
            raise OutputError(f"--output {self.path}, line {number}: from another input; name a new file.")
        if changed := [name for name in decision | self.decision if decision.get(name) != self.decision.get(name)]:
            raise OutputError(
                f"--output {self.path}, line {number}: decided with {changed[0]} {decision.get(changed[0])}, "
                f"not {self.decision.get(changed[0])}; name a new file."
            )
        if fields["error"] is None:
            self.finished[fields["line"]] = fields
        return fields["error"] is None

    def _replace(self, path: Path, lines: list[bytes]):
        # Aside and renamed: killed at any moment, the old file or the new one is there, whole.
        path = path.resolve()  # a link stays one
        aside = path.with_name(f".{path.name}.part")
        aside.write_bytes(b"".join(line + b"\n" for line in lines))
        self._hold(aside.open("a+b"))
        os.replace(aside, path)

    def write(self, record: dict):
        """Append a finished prompt and the decision, in one write.

        Raises:
            OutputError: when the file can't be written any more.
        """
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"decision": self.decision}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"--output {self.path}: {error.strerror}.") from None
