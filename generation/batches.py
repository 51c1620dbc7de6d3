"""Batched calls in which one chat's failure is its own."""

from collections.abc import Sequence

from generation.base import Chat, Completion, GenerationError, SamplingParameters, TextGenerator


def generate_each(
    engine: TextGenerator, chats: Sequence[Chat], sampling: SamplingParameters
) -> list[Completion | GenerationError]:
    """One completion a chat, or the error with its reason; chats that another's failure kept back are asked again.

    Args:
        engine: answers them.
        chats: one batch.
        sampling: how to decode.
    """
    results: dict[int, Completion | GenerationError] = {}
    waiting = list(range(len(chats)))
    while waiting:
        try:
            answers = dict(enumerate(engine.generate([chats[index] for index in waiting], sampling)))
            failures: dict[int, str] = {}
        except GenerationError as error:
            answers, failures = error.completions, error.failures
        results |= {waiting[place]: completion for place, completion in answers.items()}
        results |= {waiting[place]: GenerationError(reason, {0: reason}, {}) for place, reason in failures.items()}
        waiting = [index for index in waiting if index not in results]
    return [results[index] for index in range(len(chats))]
