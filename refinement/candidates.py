"""Which rewrites may stand: close enough to the user's intent, and new."""

from collections.abc import Collection
from dataclasses import dataclass

from generation.base import Completion
from refinement.frame import has_refined_end, read_refined

_SHORT = 60  # characters; a shorter prompt may grow as if it were this long


@dataclass(frozen=True)
class IntentLimits:
    """How far a rewrite may go from the user's prompt.

    Args:
        min_similarity: least cosine similarity of their sentence embeddings.
        min_length_ratio: least length, in characters, over the prompt's.
        max_length_ratio: greatest.
    """

    min_similarity: float = 0.25
    min_length_ratio: float = 0.2
    max_length_ratio: float = 4.0


@dataclass(frozen=True)
class Candidate:
    """One reply of the refiner.

    Args:
        rewrite: the prompt in it; empty when there is none.
        similarity: of the rewrite to the user's prompt.
        fault: why it may not stand, as the end of "The last reply ..."; `None` when it may.
    """

    rewrite: str
    similarity: float
    fault: str | None


def length_ratio(original: str, rewrite: str) -> float:
    """The rewrite's length over the original's, in characters."""
    return len(rewrite) / len(original)


def find_fault(
    original: str, rewrite: str, similarity: float, earlier: Collection[str], limits: IntentLimits
) -> str | None:
    """Why a rewrite may not stand; `None` when it may.

    Args:
        original: x^0.
        rewrite: a candidate for x^{t+1}.
        similarity: of the two.
        earlier: x^0 to x^t.
        limits: how far it may go.
    """
    if not rewrite:
        return "held no whole rewritten prompt"
    if rewrite.split() in [prompt.split() for prompt in earlier]:
        return "repeated a prompt that was found unsafe"
    if length_ratio(original, rewrite) < limits.min_length_ratio:
        return "left out most of the prompt"
    if len(rewrite) > limits.max_length_ratio * max(len(original), _SHORT):
        return "was far longer than the prompt"
    if similarity < limits.min_similarity:
        return "left the topic of the prompt"
    return None


def read_rewrite(reply: Completion) -> str:
    """The rewrite in a refiner's reply; empty when there is none, or when a limit cut it off."""
    cut = reply.finish_reason == "length" and not has_refined_end(reply.text)
    return "" if cut else read_refined(reply.text) or ""
