import subprocess
import sys

import pytest

from detector import ROOT

SCRIPT = """
import sys
from command_line import UsageError, run

def main():
    for number in range(int(sys.argv[1])):
        print(number)
    if "interrupt" in sys.argv:
        raise KeyboardInterrupt
    if "misuse" in sys.argv:
        raise UsageError("--option: what would do.")
    return 4

run("script.py", main)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [((), 4, ""), (("misuse",), 2, "script.py: --option: what would do.\n"), (("interrupt",), 130, "interrupted\n")],
)
def test_what_a_script_ends_with(arguments, code, told):
    done = subprocess.run([sys.executable, "-c", SCRIPT, "3", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "0\n1\n2\n")
    assert done.stderr.endswith(told)


@pytest.mark.parametrize("lines", [10, 100_000])
def test_a_reader_that_stops_is_no_traceback(lines):
    command = [sys.executable, "-c", SCRIPT, str(lines)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
