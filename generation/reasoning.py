"""A reasoning model thinks aloud before it answers; what it thought is no part of the answer."""

from collections.abc import Sequence
from dataclasses import replace

from generation.base import Completion, GenerationError

_OPENING, _CLOSING = "<think>", "</think>"  # of Qwen3, DeepSeek-R1 and the models made from them
NO_ANSWER = "its {tokens} tokens ended before an answer began: allow more, or switch the model's thinking off"


def opens_thought(question: str) -> bool:
    """Whether a chat, as the model reads it, ends inside a thought: DeepSeek-R1's template opens one."""
    return question.rstrip().endswith(_OPENING)


def without_thought(text: str, opened: bool = False) -> str | None:
    """The answer behind the thought; `None` where the thought has no end.

    Args:
        text: as generated.
        opened: whether the chat template opened the thought. Of a server's it isn't known: such a text only closes one.
    """
    thought, closing, answer = text.partition(_CLOSING)
    begun = opened or thought.lstrip().startswith(_OPENING)
    if closing and (begun or _OPENING not in thought):
        return answer.strip()
    return None if begun else text


def without_thoughts(completions: Sequence[Completion], opened: bool) -> list[Completion]:
    """A batch's completions, each without its thought.

    Args:
        completions: one a chat, as generated.
        opened: whether the chat template opened the thought.

    Raises:
        GenerationError: when some hold a thought and no more; it has the other chats' answers.
    """
    texts = [without_thought(completion.text, opened) for completion in completions]
    answers = {
        place: replace(completion, text=text)
        for place, (completion, text) in enumerate(zip(completions, texts, strict=True))
        if text is not None
    }
    failures = {
        place: NO_ANSWER.format(tokens=completion.completion_tokens)
        for place, completion in enumerate(completions)
        if place not in answers
    }
    if failures:
        first = next(iter(failures.values()))
        raise GenerationError(f"{len(failures)} of {len(completions)} chats have no answer: {first}", failures, answers)
    return list(answers.values())
