import io
import sys

import pytest

from evaluation import progress
from evaluation.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_away_from_a_terminal_lines_come_now_and_then_and_at_the_end(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with track("answers", 4) as task:
        task.advance()
        task.advance()
        task.advance(2)
    assert capsys.readouterr().err.splitlines() == ["answers: 2 of 4, 40 s left", "answers: 4 of 4, 0 s left"]


def test_on_a_terminal_a_bar_counts(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with track("answers", 4) as task:
        task.advance(3)
    assert "3/4" in terminal.getvalue()


def test_nothing_to_do_says_nothing(capsys):
    with track("answers", 0) as task:
        assert task.total == 0
    assert capsys.readouterr().err == ""


def test_a_fault_inside_comes_through():
    with pytest.raises(KeyError), track("answers", 4):
        raise KeyError
