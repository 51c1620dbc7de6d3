"""SysPrompt: the backbone under a strict safety system prompt."""

from pathlib import Path
from typing import ClassVar

from evaluation.methods.vanilla import Vanilla
from generation.base import Chat

SYSTEM_PROMPT = Path(__file__).with_name("sysprompt.txt").read_text(encoding="utf-8").strip()


class SysPrompt(Vanilla):
    """The backbone's answer under `SYSTEM_PROMPT`.

    Args:
        backbone: answers.
        sampling: its decoding.
    """

    name: ClassVar[str] = "sysprompt"

    def as_chat(self, prompt: str) -> Chat:
        """What the backbone reads."""
        return [{"role": "system", "content": SYSTEM_PROMPT}, *super().as_chat(prompt)]
