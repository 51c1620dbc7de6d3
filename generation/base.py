"""What every engine takes and gives: chats and sampling parameters in, completions out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Message = dict[str, str]
Chat = list[Message]


@dataclass(frozen=True)
class SamplingParameters:
    """How to decode.

    Args:
        max_new_tokens: most tokens of a completion.
        temperature: 0 decodes greedily; above, samples.
        top_p: nucleus mass when sampling, in (0, 1].
        seed: of the sampling.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        text: without special tokens, stripped.
        prompt_tokens: tokens of the chat as the model read it.
        completion_tokens: tokens generated.
        finish_reason: `"stop"` when the model ended it, `"length"` when a limit did.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class PromptTooLongError(ValueError):
    """A chat that leaves no room for an answer in the model's context.

    Args:
        index: its place in the batch.
        tokens: its length.
        context_length: the model's limit.
        text: its last message, of which the error shows the beginning.
    """

    def __init__(self, index: int, tokens: int, context_length: int, text: str):
        self.index = index
        self.reason = f"{tokens} tokens leave no room for an answer in the context of {context_length}: shorten it."
        super().__init__(f"prompt {index} ({' '.join(text[:60].split())!r}...): {self.reason}")


class TextGenerator(Protocol):
    """An engine."""

    name: str

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """Answer each chat, in the order given.

        Raises:
            PromptTooLongError: for the first chat that the context can't hold.
        """
        ...
