"""The one kind of error that a user mends: the scripts print its line and exit with 2."""


class UserError(ValueError):
    """What the user gave can't be used; the message is one line that says what is wrong, where, and what would do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
