"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes):
    """Write a file aside and rename it: killed at any moment, the old file or the new one is there, whole.

    Args:
        path: of the file, in a folder that exists.
        content: all of it.

    Raises:
        OSError: when it can't be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")  # another process may write the same file
    aside.write_bytes(content)
    os.replace(aside, path)
