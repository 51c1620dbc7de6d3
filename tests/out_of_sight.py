"""A script in a process that sees a checkpoint's folder and nothing of the repository."""

import json
import os
import subprocess
import sys


def run_out_of_sight(script, *arguments, cwd):
    """What the script prints last, as JSON.

    Args:
        script: Python code.
        arguments: its `sys.argv[1:]`.
        cwd: an empty folder; the code of checkpoints is cached there, too.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"HF_MODULES_CACHE": str(cwd / "modules")},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return json.loads(done.stdout.splitlines()[-1])
