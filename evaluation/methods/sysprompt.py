"""SysPrompt: the backbone under a strict safety system prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from evaluation.methods.base import Answer
from evaluation.methods.drafts import answer_once, plain_chat
from generation.base import Chat, SamplingParameters, TextGenerator

SYSTEM_PROMPT = Path(__file__).with_name("sysprompt.txt").read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class SysPrompt:
    """The backbone's answer under `SYSTEM_PROMPT`.

    Args:
        backbone: answers.
        sampling: its decoding.
    """

    backbone: TextGenerator
    sampling: SamplingParameters
    name: ClassVar[str] = "sysprompt"
    most_calls: ClassVar[Mapping[str, int]] = {"backbone": 1}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]."""
        return answer_once(self.backbone, prompts, _chat, self.sampling)


def _chat(prompt: str) -> Chat:
    return [{"role": "system", "content": SYSTEM_PROMPT}, *plain_chat(prompt)]
