"""What the scripts share: user errors are one line and exit code 2, never a traceback."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from transformers import HfArgumentParser

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


def run(script: str, main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main and exit with its code; with 2 and one line for what the user has to mend, 130 for Ctrl-C."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        sys.exit(130)
