"""Rewriting demonstrations, in the loop's own format: what the refiner reads, and the reply it should give."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import UserError, first_line
from generation.base import Chat
from refinement.frame import Attempt, refined_reply, refiner_chat
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
        earlier: x^{t-1} and its effort, where `prompt` is a rewrite that did not suffice.
    """

    prompt: str
    effort: dict[str, str]
    refined: str
    earlier: tuple[str, dict[str, str]] | None = None


def load_demonstrations(path: str | Path) -> list[Demonstration]:
    """The demonstrations of a jsonl file.

    Raises:
        DemonstrationError: for a file that can't be read or holds none, or a line that isn't a demonstration.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DemonstrationError(f"{path}: can't be read ({first_line(error)}).") from None
    found = [_read(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DemonstrationError(f"{path}: no demonstrations in it.")
    return found


def _read(place: str, line: str) -> Demonstration:
    try:
        row = json.loads(line)
        earlier = row.get("earlier")
        before = None if earlier is None else (earlier["prompt"], dict(earlier["effort"]))
        demonstration = Demonstration(row["prompt"], dict(row["effort"]), row["refined"], before)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DemonstrationError(
            f'{place}: expected an object with "prompt", "effort", "refined", and maybe "earlier" with the first two.'
        ) from None
    attempts = [(demonstration.prompt, demonstration.effort), *([before] if before else [])]
    texts = [demonstration.refined, *(prompt for prompt, _ in attempts)]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DemonstrationError(f'{place}: "prompt" and "refined" must be text.')
    if not all(effort and all(step in [*_RISKS] for step in effort.values()) for _, effort in attempts):
        raise DemonstrationError(f'{place}: "effort" must map categories to {", ".join(_RISKS)}.')
    return demonstration


def as_chats(demonstrations: Sequence[Demonstration], seed: int) -> list[tuple[Chat, str]]:
    """Each demonstration as the refiner's chat and its reply; the risks are drawn to fit the efforts.

    Args:
        demonstrations: what to show.
        seed: of the risks.
    """
    draw = random.Random(seed)

    def gradient(effort: dict[str, str]) -> str:
        return textual_gradient({category: draw.uniform(*_RISKS[step]) for category, step in effort.items()}, effort)

    chats = []
    for shown in demonstrations:
        history = []
        if shown.earlier is not None:
            prompt, effort = shown.earlier
            history.append(Attempt(prompt, gradient(effort), shown.prompt))
        chat = refiner_chat(shown.prompt, gradient(shown.effort), history)
        chats.append((chat, refined_reply(shown.refined)))
    return chats
