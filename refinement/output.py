"""The output file of a run: resumable, whole lines only, failed prompts tried again."""

import json
import os
from pathlib import Path

from errors import UserError

_RECORD_START = b'{"line": '


class OutputError(UserError):
    """A file that can't be written, or that isn't this run's."""


class OutputFile:
    """One line a prompt, flushed; what an earlier run finished is kept and skipped, what failed is dropped.

    Args:
        path: the file; `None` keeps nothing.
        prompts: the input's prompts by line number.

    Raises:
        OutputError: when the file can't be written, or belongs to another input.
    """

    def __init__(self, path: Path | None, prompts: dict[int, str]):
        self.path = path
        self.finished: dict[int, dict] = {}
        if path is None:
            return
        try:
            with path.open("a+b") as file:
                file.seek(0)
                whole, newline, torn = file.read().rpartition(b"\n")
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

    def _keep(self, number: int, line: bytes, prompts: dict[int, str]) -> bool:
        """Take up a finished record; whether the line stays."""
        try:
            record = json.loads(line)
            fields = {name: record[name] for name in ("prompt", "converged", "error")} | {"line": int(record["line"])}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise OutputError(
                f"--output {self.path}, line {number}: not written by refine.py; name a new file."
            ) from None
        if prompts.get(fields["line"]) != fields["prompt"]:
            raise OutputError(f"--output {self.path}, line {number}: from another input; name a new file.")
        if fields["error"] is None:
            self.finished[fields["line"]] = fields
        return fields["error"] is None

    @staticmethod
    def _replace(path: Path, lines: list[bytes]):
        # Aside and renamed: killed at any moment, the old file or the new one is there, whole.
        aside = path.with_name(path.name + ".new")
        aside.write_bytes(b"".join(line + b"\n" for line in lines))
        os.replace(aside, path)

    def write(self, record: dict):
        """Append a finished prompt, in one write.

        Raises:
            OutputError: when the file can't be written any more.
        """
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"--output {self.path}: {error.strerror}.") from None
