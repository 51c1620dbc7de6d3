"""What the scripts share: user errors are one line and exit code 2, never a traceback."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from huggingface_hub import upload_folder
from transformers import HfArgumentParser, TrainingArguments

from errors import UserError, first_line


class UsageError(UserError):
    """An option or a file's line that can't be used."""


class OneLineErrors(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\n")


class DataclassParser(HfArgumentParser):
    """`HfArgumentParser`, for the scripts built on the Trainer, with one-line errors."""

    error = OneLineErrors.error

    def parse(self) -> tuple:
        """The command line's groups of arguments.

        Raises:
            UsageError: for values that don't go together.
        """
        try:
            return self.parse_args_into_dataclasses()
        except ValueError as error:
            raise UsageError(first_line(error)) from None


def probability(text: str) -> float:
    """An argument strictly between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def make_folder(option: str, path: str | Path):
    """Make the folder that an option names, with those above it.

    Raises:
        UsageError: when it can't be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}.") from None


def check_writable(option: str, folder: Path, names: Iterable[str]):
    """Refuse, before any work, a folder in which one of these files can't be written; those that stand there stay.

    Raises:
        UsageError: when one can't be.
    """
    for path in (folder / name for name in names):
        new = not path.exists()
        try:
            with path.open("a"):
                pass
        except OSError as error:
            raise UsageError(f"{option} {folder}: {error.strerror}.") from None
        if new:
            path.unlink()


def check_folders(training_args: TrainingArguments):
    """Refuse, before any work, an output folder that can't be written or a checkpoint that isn't there.

    Raises:
        UsageError: naming the option and the folder.
    """
    make_folder("--output_dir", training_args.output_dir)
    if training_args.process_index == 0:  # the one that writes
        check_writable("--output_dir", Path(training_args.output_dir), ["config.json"])
    resume = training_args.resume_from_checkpoint
    if resume is not None and not Path(resume, "trainer_state.json").is_file():
        raise UsageError(f"--resume_from_checkpoint {resume}: no checkpoint of the Trainer's there.")


def push_folder(training_args: TrainingArguments, repository: str):
    """Upload the output folder as it was saved, where `--push_to_hub` asks so: the Trainer's own would write anew.

    Args:
        training_args: the Trainer's.
        repository: its `hub_model_id`.
    """
    if training_args.push_to_hub:
        upload_folder(
            repo_id=repository,
            folder_path=training_args.output_dir,
            ignore_patterns=["checkpoint-*"],
            token=training_args.hub_token,
        )


def run(script: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main and exit with its code; with 2 and one line for what the user has to mend.

    With 130 for Ctrl-C and 141 for a closed pipe, as shells have it.
    """
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would fail too
        sys.exit(141)
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        sys.exit(130)
