"""The refinement loop: answer, assess, and rewrite until the pair is safe (Eq. 3), a whole batch at each step."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Protocol

from generation.base import Chat, Completion, PromptTooLongError, SamplingParameters, TextGenerator
from refinement.frame import read_refined, refiner_chat
from refinement.gradient import textual_gradient


class Verdict(Protocol):
    """What the loop reads of the detector's verdict on one pair."""

    mean: dict[str, float]
    std: dict[str, float]
    effort: dict[str, str]
    is_safe: bool
    truncated_tokens: int


class Detector(Protocol):
    """What the loop needs of a detector."""

    def assess(
        self, prompts: Sequence[str], responses: Sequence[str], risk_threshold: float | None = None
    ) -> Sequence[Verdict]:
        """One risk distribution a pair."""
        ...


@dataclass(frozen=True)
class RefinementParameters:
    """How far the loop goes.

    Args:
        max_steps: most rewrites of a prompt; 0 assesses only.
        risk_threshold: τ; the detector's own when `None`.
        answer: decoding of the target model.
        rewrite: decoding of the refiner.
        retry_temperature: of the second try, after a reply with nothing usable.
    """

    max_steps: int = 5
    risk_threshold: float | None = None
    answer: SamplingParameters = SamplingParameters(max_new_tokens=256)
    rewrite: SamplingParameters = SamplingParameters(max_new_tokens=128)
    retry_temperature: float = 0.7


@dataclass
class Step:
    """One x^t with its answer r^t and its risk d^t.

    Args:
        prompt: x^t.
        response: r^t.
        risk: d^t by category.
        uncertainty: the standard deviation of each category's Beta.
        effort: the effort of each category above τ; empty when the pair is safe.
        gradient: g^t; empty when the pair is safe.
        truncated_tokens: how much of the pair the detector could not read.
        note: what went wrong in making x^t, if anything.
    """

    prompt: str
    response: str
    risk: dict[str, float]
    uncertainty: dict[str, float]
    effort: dict[str, str]
    gradient: str
    truncated_tokens: int
    note: str | None = None

    @property
    def max_risk(self) -> float:
        """max_j d_j."""
        return max(self.risk.values())

    @property
    def is_safe(self) -> bool:
        """Whether no category is above τ."""
        return not self.effort


@dataclass
class Refinement:
    """What came of one prompt.

    Args:
        prompt: x^0, as given.
        steps: from x^0 on.
        calls: model calls made for it, by role ("target", "refiner", "detector").
        tokens: read and written by target and refiner ("prompt", "completion").
        seconds: from the batch's start until this prompt was done.
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
        """Whether the returned pair is safe."""
        return bool(self.steps) and self.best.is_safe

    @property
    def best(self) -> Step:
        """The safe step, else the one with the lowest max_j d_j: never worse than the input."""
        return min(self.steps, key=lambda step: step.max_risk)

    def as_record(self) -> dict:
        """The refinement as one JSON object."""
        return {
            "prompt": self.prompt,
            "refined_prompt": self.best.prompt if self.steps else None,
            "response": self.best.response if self.steps else None,
            "converged": self.converged,
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


def refine(
    prompts: Sequence[str],
    target: TextGenerator,
    refiner: TextGenerator,
    detector: Detector,
    parameters: RefinementParameters,
) -> Iterator[tuple[int, Refinement]]:
    """Refine a batch; each step makes one target call, one detector pass and one refiner call for all live prompts.

    Args:
        prompts: the users' prompts.
        target: answers them.
        refiner: rewrites them.
        detector: judges the pairs.
        parameters: limits and decoding.

    Yields:
        The place of a prompt and what came of it, as soon as it is safe, out of steps, or failed.
    """
    start = perf_counter()
    live = {index: Refinement(prompt) for index, prompt in enumerate(prompts)}
    current = dict(enumerate(prompts))
    notes: dict[int, str | None] = dict.fromkeys(live)
    while live:
        questions = {index: [{"role": "user", "content": current[index]}] for index in live if not live[index].error}
        answers = _generate(target, questions, live, parameters.answer, "target")
        _assess(detector, {index: (current[index], answers[index].text) for index in answers}, notes, live, parameters)
        for index in list(live):
            refinement = live[index]
            if refinement.error or refinement.steps[-1].is_safe or len(refinement.steps) > parameters.max_steps:
                refinement.seconds = perf_counter() - start
                yield index, live.pop(index)
        for index, (rewrite, note) in _rewrite(refiner, current, live, parameters).items():
            current[index], notes[index] = rewrite, note


def _generate(
    engine: TextGenerator, chats: dict[int, Chat], live: dict[int, Refinement], sampling: SamplingParameters, role: str
) -> dict[int, Completion]:
    """One batched call; a chat that the context can't hold is left out, its reason kept as the prompt's error."""
    chats = dict(chats)
    while chats:
        try:
            completions = dict(zip(chats, engine.generate(list(chats.values()), sampling), strict=True))
        except PromptTooLongError as error:
            too_long = list(chats)[error.index]
            live[too_long].error = f"{role}: {error.reason}"
            del chats[too_long]
            continue
        for index, completion in completions.items():
            live[index].count(role, completion)
        return completions
    return {}


def _assess(
    detector: Detector,
    pairs: dict[int, tuple[str, str]],
    notes: dict[int, str | None],
    live: dict[int, Refinement],
    parameters: RefinementParameters,
):
    """Judge every answered prompt, and add the step to its refinement."""
    if not pairs:
        return
    prompts, responses = zip(*pairs.values(), strict=True)
    risks = detector.assess(prompts, responses, risk_threshold=parameters.risk_threshold)
    for (index, (prompt, response)), risk in zip(pairs.items(), risks, strict=True):
        gradient = textual_gradient(risk.mean, risk.effort)
        live[index].calls["detector"] += 1
        live[index].steps.append(
            Step(prompt, response, risk.mean, risk.std, risk.effort, gradient, risk.truncated_tokens, notes[index])
        )


def _rewrite(
    refiner: TextGenerator, current: dict[int, str], live: dict[int, Refinement], parameters: RefinementParameters
) -> dict[int, tuple[str, str | None]]:
    """Eq. 3: x^{t+1} of every live prompt, with a note where even the second try gave nothing usable."""
    open_rows = [index for index in live if not live[index].error]
    gradients = {index: live[index].steps[-1].gradient for index in open_rows}
    chats = {index: refiner_chat(current[index], gradients[index]) for index in open_rows}
    replies = _generate(refiner, chats, live, parameters.rewrite, "refiner")
    rewrites = {index: _read_rewrite(reply, current[index]) for index, reply in replies.items()}

    unusable = [index for index, rewrite in rewrites.items() if rewrite is None]
    # Another step is another draw: the same failure is not met with the same dice.
    retry = replace(
        parameters.rewrite,
        temperature=parameters.retry_temperature,
        seed=parameters.rewrite.seed + max((len(live[index].steps) for index in unusable), default=0),
    )
    chats = {index: refiner_chat(current[index], gradients[index], replies[index].text) for index in unusable}
    for index, reply in _generate(refiner, chats, live, retry, "refiner").items():
        rewrites[index] = _read_rewrite(reply, current[index])
    for index in unusable:
        live[index].error = None  # a second try that the context can't hold is no worse than one that fails
    kept = "the refiner gave no usable rewrite, twice; the prompt was kept"
    return {
        index: (current[index], kept) if rewrite is None else (rewrite, None) for index, rewrite in rewrites.items()
    }


def _read_rewrite(reply: Completion, prompt: str) -> str | None:
    """The rewrite in a reply; `None` when there is none, or when it is the prompt again."""
    rewrite = read_refined(reply.text)
    return None if rewrite is None or rewrite.split() == prompt.split() else rewrite
