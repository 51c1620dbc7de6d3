"""Prompts on their way to an answer: batched calls that book what they cost and keep one prompt's failure to itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from evaluation.methods.base import Answer, TraceStep
from generation.base import Chat, Completion, SamplingParameters, TextGenerator
from generation.batches import generate_each


@dataclass(eq=False)
class Draft:
    """A prompt under way.

    Args:
        place: in the input.
        prompt: the user's.
        error: why it gets no answer, if so.
        started: the clock at its start, in seconds.
        steps, calls, tokens: so far; see [`Answer`].
    """

    place: int
    prompt: str
    error: str | None = None
    started: float = field(default_factory=perf_counter)
    steps: list[TraceStep] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "completion": 0})

    def book(self, role: str, completion: Completion):
        """Count an answered call and its tokens."""
        self.calls[role] = self.calls.get(role, 0) + 1
        self.tokens["prompt"] += completion.prompt_tokens
        self.tokens["completion"] += completion.completion_tokens

    def finish(self, converged: bool | None = None) -> tuple[int, Answer]:
        """Its place, and the last step's response as its answer."""
        chosen = None if self.error else len(self.steps) - 1
        return self.place, Answer(
            response=None if chosen is None else self.steps[chosen].response,
            steps=self.steps,
            chosen=chosen,
            calls=self.calls,
            tokens=self.tokens,
            seconds=perf_counter() - self.started,
            converged=None if self.error else converged,
            error=self.error,
        )


def start_batches(prompts: Sequence[str], batch_size: int) -> Iterator[list[Draft]]:
    """The prompts, a batch at a time, as drafts that start when their batch does; a blank one has its error already."""
    for first in range(0, len(prompts), batch_size):
        yield [
            Draft(place, prompts[place], error=None if prompts[place].strip() else "the prompt is blank")
            for place in range(first, min(first + batch_size, len(prompts)))
        ]


def ask(
    engine: TextGenerator,
    drafts: Sequence[Draft],
    as_chat: Callable[[Draft], Chat],
    sampling: SamplingParameters,
    role: str = "backbone",
) -> list[tuple[Draft, Completion]]:
    """One batched call for those of the drafts that have not failed; returns those that it answered.

    Args:
        engine: answers.
        drafts: one batch.
        as_chat: what the engine reads of a draft.
        sampling: how to decode.
        role: of the engine, to book the call under.
    """
    live = [draft for draft in drafts if draft.error is None]
    replies = generate_each(engine, [as_chat(draft) for draft in live], sampling)
    answered = []
    for draft, reply in zip(live, replies, strict=True):
        if isinstance(reply, Completion):
            draft.book(role, reply)
            answered.append((draft, reply))
        else:
            draft.error = f"{role}: {reply}"
    return answered


def answer_once(
    engine: TextGenerator, prompts: Sequence[str], as_chat: Callable[[str], Chat], sampling: SamplingParameters
) -> Iterator[tuple[int, Answer]]:
    """The whole of a method that asks the backbone once; see [`Method.answer`].

    Args:
        engine: the backbone.
        prompts: the users' prompts.
        as_chat: what the backbone reads of a prompt.
        sampling: how to decode.
    """
    for drafts in start_batches(prompts, engine.batch_size):
        for draft, reply in ask(engine, drafts, lambda draft: as_chat(draft.prompt), sampling):
            draft.steps.append(TraceStep(draft.prompt, reply.text, finish_reason=reply.finish_reason))
        yield from [draft.finish() for draft in drafts]


def plain_chat(prompt: str) -> Chat:
    """The prompt as it is, and nothing else."""
    return [{"role": "user", "content": prompt}]
