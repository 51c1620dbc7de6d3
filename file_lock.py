"""A file that one process at a time works on."""

import fcntl
from typing import IO


def lock(file: IO) -> bool:
    """Lock an open file until it is closed or the process ends; false where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
