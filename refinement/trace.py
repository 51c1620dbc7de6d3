"""What the loop leaves behind of one prompt: its steps, and what came of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from generation.base import Completion
from refinement.candidates import length_ratio
from refinement.constructive import constructive_reply


def rank(risk: Mapping[str, float], effort: Mapping[str, str]) -> tuple[bool, float]:
    """How a pair compares with others, the best first: safe ones, then those of the lowest highest risk.

    Args:
        risk: d by category.
        effort: the effort of each unsafe category. Of an unsafe pair only these count: one can be switched off.
    """
    return bool(effort), max(risk[category] for category in effort or risk)


def count_rewrites(steps: Sequence[Mapping]) -> int:
    """How many rewrites led to the last of some steps, as records hold them.

    Where none could be used, a step keeps the prompt and the answer of the one before: it counts for none.
    """
    pairs = [(step["prompt"], step["response"]) for step in steps]
    return sum(one != other for one, other in pairwise(pairs))


@dataclass
class Step:
    """One x^t with its answer r^t and its risk d^t.

    Args:
        prompt: x^t.
        response: r^t.
        risk: d^t by category.
        uncertainty: the standard deviation of each category's Beta.
        effort: the effort of each category above τ; empty when the pair is safe. For a rewrite that is safe alone but
            was not answered: that of the step before.
        gradient: g^t; empty when the pair is safe, unless r^t refuses.
        similarity: cosine of x^t to x^0.
        note: what went wrong with x^t or r^t, if anything.
        refused: whether r^t is a rigid refusal or empty; d^t is then the risk of x^t alone, or that of the pair where
            it is higher.
        finish_reason: of r^t, as in [`Completion`].
    """

    prompt: str
    response: str
    risk: dict[str, float]
    uncertainty: dict[str, float]
    effort: dict[str, str]
    gradient: str
    similarity: float
    note: str | None = None
    refused: bool = False
    finish_reason: str | None = None

    @property
    def max_risk(self) -> float:
        """max_j d_j, of an unsafe pair over the categories above τ: one that is switched off doesn't count."""
        return rank(self.risk, self.effort)[1]

    @property
    def is_safe(self) -> bool:
        """Whether the pair may stand: no effort."""
        return not self.effort


@dataclass
class Refinement:
    """What came of one prompt.

    Args:
        prompt: x^0, as given.
        steps: from x^0 on.
        calls: model calls made for it, by role ("target", "refiner", "detector").
        tokens: read and written by target and refiner ("prompt", "completion").
        seconds: from its first call until it was done.
        error: why it could not be refined to the end, if so.
    """

    prompt: str
    steps: list[Step] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=lambda: {"target": 0, "refiner": 0, "detector": 0})
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "completion": 0})
    seconds: float = 0.0
    error: str | None = None

    @property
    def converged(self) -> bool:
        """Whether the returned pair is safe, has an answer, and did not fail on the way."""
        if self.error or not self.steps:
            return False
        return self.best.is_safe and bool(self.best.response.strip())

    @property
    def best(self) -> Step:
        """The safe step, else the one with the lowest max_j d_j: never worse than the input.

        Where all that is safe was refused, the first that says so: of the user's own prompt, if it is.
        """
        safe = [step for step in self.steps if step.is_safe]
        answered = [step for step in safe if not step.refused]
        worded = [step for step in safe if step.response.strip()]
        return next(iter(answered or worded or safe), min(self.steps, key=lambda step: step.max_risk))

    @property
    def response(self) -> str | None:
        """The safe answer; without one, a constructive reply, never the unsafe answer. `None` after an error."""
        if self.converged:
            return self.best.response
        return None if self.error or not self.steps else constructive_reply([*self.best.effort])

    def as_record(self) -> dict:
        """The refinement as one JSON object."""
        best = self.best if self.steps else None
        return {
            "prompt": self.prompt,
            "refined_prompt": best.prompt if best else None,
            "response": self.response,
            "converged": self.converged,
            "similarity": round(best.similarity, 4) if best else None,
            "length_ratio": round(length_ratio(self.prompt, best.prompt), 4) if best else None,
            "error": self.error,
            "steps": [asdict(step) for step in self.steps],
            "calls": self.calls,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }

    def count(self, role: str, completion: Completion):
        """Book a call and its tokens."""
        self.calls[role] += 1
        self.tokens["prompt"] += completion.prompt_tokens
        self.tokens["completion"] += completion.completion_tokens
