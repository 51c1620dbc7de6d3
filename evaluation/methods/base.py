"""What every method takes and gives: prompts in, answers with their traces out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class TraceStep:
    """One question that was put to the backbone, with its answer.

    Args:
        prompt: the question, without the method's own frame or system prompt.
        response: what was answered.
        risk: the detector's mean by category, where the method has a detector.
        effort: the effort of each category above τ.
        gradient: the feedback for the next step: a textual gradient, a critique.
        note: what went wrong in making this step or its feedback, if anything.
        finish_reason: of the response, as in [`Completion`].
    """

    prompt: str
    response: str
    risk: Mapping[str, float] | None = None
    effort: Mapping[str, str] | None = None
    gradient: str | None = None
    note: str | None = None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a method gives for one prompt.

    Args:
        response: the final answer; `None` after an error.
        steps: how it came about, the first step first.
        chosen: the place of the step that gave the response; `None` where none did: the reply that stands in for an
            unsafe answer, or an error.
        calls: model calls that were answered, by role ("backbone", "refiner").
        tokens: read and written in them ("prompt", "completion").
        seconds: from the prompt's first call until its answer.
        converged: whether the method itself found the result safe; `None` for one that doesn't judge.
        error: why there is no answer, if so.
    """

    response: str | None
    steps: Sequence[TraceStep] = ()
    chosen: int | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    converged: bool | None = None
    error: str | None = None


class Method(Protocol):
    """A way from prompts to answers."""

    @property
    def name(self) -> str:
        """As in the tables' keys, such as "lance-nr"."""
        ...

    @property
    def most_calls(self) -> Mapping[str, int]:
        """Most calls a prompt can cost, by role; what a dry run projects from."""
        ...

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answer all prompts.

        Yields:
            The place of a prompt and its answer, as soon as it is there; an error of one prompt is its answer's.
        """
        ...
