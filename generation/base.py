"""What every engine takes and gives: chats and sampling parameters in, completions out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

Message = dict[str, str]
Chat = list[Message]
CONTENT_FILTER = "content_filter"


@dataclass(frozen=True)
class SamplingParameters:
    """How to decode.

    Args:
        max_new_tokens: most tokens of a completion.
        temperature: 0 decodes greedily; above, samples.
        top_p: nucleus mass when sampling, in (0, 1].
        seed: of the sampling; each chat of a batch draws its own from it.
        json_schema: a JSON schema, as text, that the completion has to follow; for the engines that can hold it to one.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    json_schema: str | None = None

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be finite and at least 0, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        text: without special tokens and a reasoning model's thought, stripped.
        prompt_tokens: tokens of the chat as the model read it.
        completion_tokens: tokens generated.
        finish_reason: `"stop"` when the model ended it, `"length"` when a limit did, `"content_filter"` when its server
            would not have the chat or the answer.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class GenerationError(RuntimeError):
    """Some chats of a batch got no answer; what the others got is not lost.

    Args:
        message: the whole story in one line.
        failures: the reason by place in the batch.
        completions: the answers by place. A chat that is in neither was not tried.
        too_long: the places of the failures that a shorter chat would mend.
    """

    def __init__(
        self,
        message: str,
        failures: dict[int, str],
        completions: dict[int, Completion],
        too_long: Collection[int] = (),
    ):
        super().__init__(message)
        self.failures = failures
        self.completions = completions
        self.too_long = frozenset(too_long)


class PromptTooLongError(GenerationError):
    """A chat that leaves no room for an answer in the model's context; none of its batch was tried.

    Args:
        index: its place in the batch.
        tokens: its length.
        context_length: the model's limit.
        text: its last message, of which the error shows the beginning.
    """

    def __init__(self, index: int, tokens: int, context_length: int, text: str):
        reason = f"{tokens} tokens leave no room for an answer in the context of {context_length}: shorten it."
        message = f"prompt {index} ({' '.join(text[:60].split())!r}...): {reason}"
        super().__init__(message, failures={index: reason}, completions={}, too_long=(index,))


class TextGenerator(Protocol):
    """An engine.

    Attributes:
        name: kind and model, as in the cache's key.
        batch_size: how many chats keep it busy.
        follows_schema: whether it can hold an answer to a JSON schema.
    """

    name: str
    batch_size: int
    follows_schema: bool

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """Answer each chat, in the order given.

        Raises:
            GenerationError: when some chats got no answer; it holds the reasons, and the other chats' answers.
        """
        ...


def check_count(name: str, value: int):
    """Refuse, with a `ValueError` that names it, an engine's option that isn't a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")
