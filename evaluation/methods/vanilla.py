"""Vanilla: the backbone as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from evaluation.methods.base import Answer
from evaluation.methods.drafts import answer_once, plain_chat
from generation.base import Chat, SamplingParameters, TextGenerator


@dataclass(frozen=True)
class Vanilla:
    """The backbone's own answer.

    Args:
        backbone: answers.
        sampling: its decoding.
    """

    backbone: TextGenerator
    sampling: SamplingParameters
    name: ClassVar[str] = "vanilla"
    most_calls: ClassVar[Mapping[str, int]] = {"backbone": 1}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]."""
        return answer_once(self.backbone, prompts, self.as_chat, self.sampling)

    def as_chat(self, prompt: str) -> Chat:
        """What the backbone reads."""
        return plain_chat(prompt)
