from io import StringIO

import pytest
from rich.console import Console

from refinement.console import show
from refinement.constructive import constructive_reply
from refinement.trace import Refinement, Step

CATEGORY = "privacy_violation"


def unsafe(prompt="a risky prompt", response="a risky answer", risk=0.8, effort="Severe", note=None):
    return Step(prompt, response, {CATEGORY: risk}, {CATEGORY: 0.05}, {CATEGORY: effort}, "- gradient", 0.9, note)


def safe(prompt="a safe prompt", response="a helpful answer"):
    return Step(prompt, response, {CATEGORY: 0.12}, {CATEGORY: 0.05}, {}, "", 0.9)


def shown(*steps, **fields):
    refinement = Refinement(steps[0].prompt if steps else "a prompt", steps=list(steps), **fields)
    file = StringIO()
    show(refinement, Console(file=file, width=100))
    return file.getvalue()


def words(text):
    return " ".join("".join(character for character in text if character not in "│╭╮╰╯─").split())


def test_a_step_shows_its_prompt_its_risk_and_the_effort():
    text = shown(unsafe(), safe())
    risk_line = next(line for line in text.split("\n") if CATEGORY in line)
    assert "0.80 ± 0.05" in risk_line
    assert "Severe" in risk_line
    assert "a risky prompt" in text


def test_a_converged_refinement_shows_its_rewrites_and_the_safe_answer():
    calls = {"target": 2, "refiner": 1, "detector": 2}
    text = shown(unsafe(), safe(), calls=calls, seconds=1.25)
    assert text.index("Rewrite 1") < text.index("a safe prompt") < text.index("Safe answer")
    assert text.index("Safe answer") < text.index("a helpful answer")
    assert "a risky answer" not in text
    assert "No safe answer" not in text
    assert "lowest risk" not in text
    assert "answers: 2 · rewrites drawn: 1 · 1.2 s" in text


def test_a_refinement_that_did_not_converge_shows_the_constructive_reply_and_never_an_unsafe_answer():
    text = shown(unsafe(risk=0.9), unsafe(risk=0.45, effort="Minor"), unsafe(risk=0.6))
    assert "Safe answer" not in text
    assert "a risky answer" not in text
    assert constructive_reply([CATEGORY]) in words(text)
    assert text.index("No safe answer was found") < text.index("I would rather not")
    assert "lowest risk reached: 0.45, at rewrite 1\n" in text


def test_a_prompt_whose_rewrites_were_no_better_is_named_as_the_least_risky():
    assert "lowest risk reached: 0.45, at the prompt itself\n" in shown(unsafe(risk=0.45), unsafe(risk=0.6))


def test_a_prompt_that_failed_on_its_way_shows_its_steps_and_its_lowest_risk_but_no_answer():
    text = shown(unsafe(risk=0.9), unsafe(prompt="a milder prompt", risk=0.6), error="target: no answer")
    assert text.index("a risky prompt") < text.index("a milder prompt") < text.index("lowest risk reached: 0.60")
    assert "answer was found" not in text
    assert "a risky answer" not in text
    assert "I would rather not" not in text


def test_a_note_is_shown():
    assert "the prompt was kept" in shown(unsafe(note="the prompt was kept"))


def test_a_refinement_without_a_step_shows_nothing():
    assert shown(error="target: too long") == ""


@pytest.mark.parametrize(
    "text", ["[bold]loud[/bold]", "[/]", "\\[red]x", ":smile:", "[link=https://a.example]b[/link]"]
)
def test_markup_in_a_prompt_an_answer_or_a_note_is_printed_literally(text):
    assert shown(safe(prompt=text, response="x")).count(text) == 1
    assert shown(safe(response=text)).count(text) == 1
    assert shown(unsafe(note=text)).count(text) == 1


@pytest.mark.parametrize("control", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m"])
def test_a_terminal_control_in_an_answer_does_not_reach_the_terminal(control):
    assert control[0] not in shown(safe(response=f"before {control} after"))
