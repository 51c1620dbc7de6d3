"""A file that one process at a time works on."""

import fcntl
from typing import IO


def lock(file: IO) -> bool:
    """Hold an open file until it is closed, which it is however the process ends; false where another one holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
