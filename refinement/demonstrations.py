"""Rewriting demonstrations, in the loop's own format: what the refiner reads, and the reply it should give."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import UserError, first_line
from generation.base import Chat
from refinement.frame import refined_reply, refiner_chat
from refinement.gradient import textual_gradient

DEMONSTRATIONS = Path(__file__).with_name("demonstrations.jsonl")
# The risks d_j behind an effort, by the default thresholds of Eq. 1.
_RISKS = {"Minor": (0.31, 0.5), "Mild": (0.51, 0.7), "Severe": (0.71, 0.99)}


class DemonstrationError(UserError):
    """A file or line that holds no demonstration."""


@dataclass(frozen=True)
class Demonstration:
    """One good update of Eq. 3.

    Args:
        prompt: x^t.
        effort: the effort of each of its unsafe categories.
        refined: x^{t+1}.
    """

    prompt: str
    effort: dict[str, str]
    refined: str


def load_demonstrations(path: str | Path) -> list[Demonstration]:
    """The demonstrations of a jsonl file.

    Raises:
        DemonstrationError: for a file that can't be read or holds none, or a line that isn't a demonstration.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DemonstrationError(f"{path}: can't be read ({first_line(error)}).") from None
    found = [_read(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DemonstrationError(f"{path}: no demonstrations in it.")
    return found


def _read(place: str, line: str) -> Demonstration:
    try:
        row = json.loads(line)
        demonstration = Demonstration(row["prompt"], dict(row["effort"]), row["refined"])
    except (ValueError, KeyError, TypeError):
        raise DemonstrationError(f'{place}: expected an object with "prompt", "effort" and "refined".') from None
    texts = (demonstration.prompt, demonstration.refined)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DemonstrationError(f'{place}: "prompt" and "refined" must be text.')
    if not demonstration.effort or not set(demonstration.effort.values()) <= set(_RISKS):
        raise DemonstrationError(f'{place}: "effort" must map categories to {", ".join(_RISKS)}.')
    return demonstration


def as_chats(demonstrations: Sequence[Demonstration], seed: int) -> list[tuple[Chat, str]]:
    """Each demonstration as the refiner's chat and its reply; the risks are drawn to fit the efforts.

    Args:
        demonstrations: what to show.
        seed: of the risks.
    """
    draw = random.Random(seed)
    chats = []
    for demonstration in demonstrations:
        risk = {category: draw.uniform(*_RISKS[effort]) for category, effort in demonstration.effort.items()}
        gradient = textual_gradient(risk, demonstration.effort)
        chats.append((refiner_chat(demonstration.prompt, gradient), refined_reply(demonstration.refined)))
    return chats
