"""The refinement loop: answer, assess, and rewrite until the pair is safe (Eq. 3), a whole batch at each step."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import Protocol

from generation.base import Chat, Completion, GenerationError, SamplingParameters, TextGenerator
from refinement.candidates import Candidate, IntentLimits, find_fault, read_rewrite
from refinement.frame import Attempt, refiner_chat
from refinement.gradient import textual_gradient
from refinement.similarity import Embedder, cosine
from refinement.trace import Refinement, Step, rank

Key = tuple[int, int]  # a prompt's place in the input, and the draw
REFUSED, EMPTY = "the answer refuses", "the answer is empty"
JUDGED_ALONE = "{what}, so the prompt was judged alone"
LAST_GRADIENT = "{what}, so the last gradient stands"
CHARACTERS_A_TOKEN = 2  # few enough for most languages
REWRITE_TOKENS = 256
MOST_REWRITE_TOKENS = 4096  # what servers commonly allow
KEPT = "no reply of the refiner could be used (the last one {fault}); the prompt was kept"


class Verdict(Protocol):
    """What the loop reads of the detector's verdict on one pair."""

    mean: dict[str, float]
    std: dict[str, float]
    effort: dict[str, str]


class Detector(Protocol):
    """What the loop needs of a detector."""

    def assess(
        self,
        prompts: Sequence[str],
        responses: Sequence[str] | None = None,
        *,
        risk_threshold: float | Mapping[str, float | None] | None = None,
        uncertainty: float | None = None,
    ) -> Sequence[Verdict]:
        """One risk distribution a pair."""
        ...


class RefusalFinder(Protocol):
    """What the loop needs of a refusal detector."""

    def detect(self, responses: Sequence[str]) -> Sequence[bool]:
        """Whether each response is a rigid refusal."""
        ...


@dataclass(frozen=True)
class RefinementParameters:
    """How the loop goes, and how far.

    Args:
        max_steps: most rewrites of a prompt; 0 assesses only.
        batch_size: prompts under way at once; a finished one makes room for the next.
        risk_threshold: τ, or one by category, `None` for a category that doesn't count; else the detector's own.
        uncertainty: level of the Beta's interval whose upper end is held against τ in place of its mean.
        candidates: rewrites drawn at each step; the one that the detector finds least risky stands.
        limits: how far a rewrite may go from the user's prompt.
        history: most earlier attempts in the refiner's context.
        shots: examples in the refiner's context, for one that was not fine-tuned.
        answer: decoding of the target model.
        rewrite: decoding of the refiner; a prompt too long for its tokens gets more of them.
        draw_temperature: of the refiner where it draws several candidates, or a second time.
    """

    max_steps: int = 5
    batch_size: int = 16
    risk_threshold: float | Mapping[str, float | None] | None = None
    uncertainty: float | None = None
    candidates: int = 2
    limits: IntentLimits = IntentLimits()
    history: int = 2
    shots: int = 0
    answer: SamplingParameters = SamplingParameters(max_new_tokens=256)
    rewrite: SamplingParameters = SamplingParameters(max_new_tokens=REWRITE_TOKENS)
    draw_temperature: float = 0.7


@dataclass
class _Live:
    """A prompt under way: x^t, how close it is to x^0, the attempts behind it, whether r^t is still to come, and why
    the refiner's last reply could not be used, where x^t was kept for it.
    """

    refinement: Refinement
    started: float
    prompt: str
    similarity: float = 1.0
    attempts: list[Attempt] = field(default_factory=list)
    unanswered: bool = True
    fault: str | None = None

    @property
    def gradient(self) -> str:
        """g^t."""
        return self.refinement.steps[-1].gradient

    def is_done(self, max_steps: int) -> bool:
        """Whether it failed, has a safe answer, or is out of steps."""
        steps = self.refinement.steps
        return bool(self.refinement.error) or (steps[-1].is_safe and not steps[-1].refused) or len(steps) > max_steps


def refine(
    prompts: Iterable[str],
    target: TextGenerator,
    refiner: TextGenerator,
    detector: Detector,
    embedder: Embedder,
    parameters: RefinementParameters,
    refusals: RefusalFinder | None = None,
) -> Iterator[tuple[int, Refinement]]:
    """Refine prompts; each step asks target, detector and refiner for all under way at once.

    The refiner is asked again for those of which it gave nothing usable, and the detector chooses among several draws.

    Args:
        prompts: the users' prompts.
        target: answers them.
        refiner: rewrites them.
        detector: judges the pairs.
        embedder: measures how close a rewrite stays to the original.
        parameters: limits and decoding.
        refusals: tells a rigid refusal, which like an empty text is no answer: its prompt is judged alone, and as a
            pair, and rewritten whatever its risk. Where no rewrite of a prompt that is safe both ways is answered
            either, the first refusal stands. Without it a refusal is judged as any answer.

    Yields:
        The place of a prompt and what came of it, as soon as it is safe, out of steps, or failed.
    """
    waiting = enumerate(prompts)
    live: dict[int, _Live] = {}
    while True:
        for index, prompt in islice(waiting, parameters.batch_size - len(live)):
            blank = None if prompt.strip() else "the prompt is blank"  # the detector would refuse the whole batch
            live[index] = _Live(Refinement(prompt, error=blank), perf_counter(), prompt, unanswered=blank is None)
        if not live:
            return
        _answer(target, detector, live, parameters, refusals)
        for index in [index for index, row in live.items() if row.is_done(parameters.max_steps)]:
            row = live.pop(index)
            row.refinement.seconds = perf_counter() - row.started
            yield index, row.refinement
        _rewrite(refiner, detector, embedder, live, parameters)


def _answer(
    target: TextGenerator,
    detector: Detector,
    live: dict[int, _Live],
    parameters: RefinementParameters,
    refusals: RefusalFinder | None,
):
    """r^t and d^t of every prompt that is new, as another step of its refinement."""
    questions = {
        (index, 0): [[{"role": "user", "content": row.prompt}]] for index, row in live.items() if row.unanswered
    }
    answers = {index: answer for (index, _), answer in _generate(target, questions, live, parameters.answer, "target")}
    responses = [answer.text for answer in answers.values()]
    refused = refusals.detect(responses) if refusals else [False] * len(responses)
    faults = [
        REFUSED if is_refusal else None if response.strip() else EMPTY
        for response, is_refusal in zip(responses, refused, strict=True)
    ]
    asked = [live[index].prompt for index in answers]
    verdicts = _judge_answers(detector, asked, responses, refused, parameters)
    for index, response, fault, verdict in zip(answers, responses, faults, verdicts, strict=True):
        row = live[index]
        row.unanswered = False
        row.refinement.calls["detector"] += 2 if fault == REFUSED else 1
        step = Step(
            row.prompt,
            response,
            verdict.mean,
            verdict.std,
            verdict.effort,
            textual_gradient(verdict.mean, verdict.effort),
            row.similarity,
            JUDGED_ALONE.format(what=fault) if fault else None,
            fault is not None,
            answers[index].finish_reason,
        )
        if fault and step.is_safe:
            step = _ask_again(step, fault, row.refinement.steps, parameters)
        row.refinement.steps.append(step)


def _judge_answers(
    detector: Detector,
    prompts: Sequence[str],
    responses: Sequence[str],
    refused: Sequence[bool],
    parameters: RefinementParameters,
) -> Sequence[Verdict]:
    """d^t of each pair, in one detector pass.

    Of a refusal the prompt alone is judged too, and the riskier verdict counts: what reads as a refusal may go on, or
    be none.
    """
    pairs = [
        (prompt, response if response.strip() else None) for prompt, response in zip(prompts, responses, strict=True)
    ]
    alone = [(prompt, None) for prompt, is_refusal in zip(prompts, refused, strict=True) if is_refusal]
    verdicts = _judge(detector, [*pairs, *alone], parameters)
    of_prompts = iter(verdicts[len(pairs) :])
    return [
        max(verdict, next(of_prompts), key=lambda other: rank(other.mean, other.effort)) if is_refusal else verdict
        for verdict, is_refusal in zip(verdicts[: len(pairs)], refused, strict=True)
    ]


def _ask_again(step: Step, fault: str, earlier: list[Step], parameters: RefinementParameters) -> Step:
    """An unanswered prompt that is safe alone, with a gradient: the last one, or a minor one for the user's own."""
    if earlier:
        note = LAST_GRADIENT.format(what=fault)
        return replace(step, effort=earlier[-1].effort, gradient=earlier[-1].gradient, note=note)
    thresholds = parameters.risk_threshold if isinstance(parameters.risk_threshold, Mapping) else {}
    counted = [category for category in step.risk if thresholds.get(category, 0) is not None]
    riskiest = max(counted or step.risk, key=lambda category: step.risk[category])
    return replace(step, gradient=textual_gradient(step.risk, {riskiest: "Minor"}))


def _judge(
    detector: Detector, pairs: Sequence[tuple[str, str | None]], parameters: RefinementParameters
) -> Sequence[Verdict]:
    if not pairs:
        return []
    prompts, responses = zip(*pairs, strict=True)
    return detector.assess(
        prompts, responses, risk_threshold=parameters.risk_threshold, uncertainty=parameters.uncertainty
    )


def _rewrite(
    refiner: TextGenerator,
    detector: Detector,
    embedder: Embedder,
    live: dict[int, _Live],
    parameters: RefinementParameters,
):
    """Eq. 3: x^{t+1} of every live prompt; where two tries gave nothing usable, x^t is kept and the step says so."""
    # Greedy decoding would repeat the reply that failed: a prompt that was kept goes to the second try at once.
    stuck = {index: row.fault for index, row in live.items() if row.fault}
    fresh = {index: None for index in live if index not in stuck}
    candidates = _draw(refiner, embedder, live, fresh, parameters)
    chosen = _choose(detector, live, candidates, parameters)
    faults = stuck | {index: row[0].fault for index, row in candidates.items() if index not in chosen}
    again = _draw(refiner, embedder, live, faults, parameters)
    chosen |= _choose(detector, live, again, parameters)
    for index, row in live.items():
        if row.refinement.error:
            continue
        if index in chosen:
            row.attempts.append(Attempt(row.prompt, row.gradient, chosen[index].rewrite))
            row.prompt, row.similarity, row.unanswered = chosen[index].rewrite, chosen[index].similarity, True
            row.fault = None
        else:  # its answer and its risk stand
            row.fault = again[index][0].fault
            row.refinement.steps.append(replace(row.refinement.steps[-1], note=KEPT.format(fault=row.fault)))


def _draw(
    refiner: TextGenerator,
    embedder: Embedder,
    live: dict[int, _Live],
    faults: Mapping[int, str | None],
    parameters: RefinementParameters,
) -> dict[int, list[Candidate]]:
    """The refiner's candidates for some prompts, those that may stand and those that may not.

    Args:
        refiner: rewrites them.
        embedder: measures how close a rewrite stays.
        live: all prompts under way.
        faults: the prompts to rewrite, each with what was wrong with the last reply, if there was one.
        parameters: limits and decoding.
    """
    chats_by_room: dict[int, dict[Key, list[Chat]]] = defaultdict(dict)
    for index, fault in faults.items():
        room = rewrite_room(len(live[index].prompt), parameters.rewrite.max_new_tokens)
        for draw in range(parameters.candidates):
            chats_by_room[room][index, draw] = _refiner_chats(live[index], fault, parameters)
    sampling = parameters.rewrite
    if parameters.candidates > 1 or any(faults.values()):
        # Another step or another try, another draw: the same failure is not met with the same dice.
        tries = 2 * max((len(live[index].refinement.steps) for index in faults), default=0) + any(faults.values())
        sampling = replace(sampling, temperature=parameters.draw_temperature, seed=sampling.seed + 1000 * tries)
    replies = [
        (index, read_rewrite(reply))
        for room, chats in chats_by_room.items()
        for (index, _), reply in _generate(refiner, chats, live, replace(sampling, max_new_tokens=room), "refiner")
    ]
    originals = [live[index].refinement.prompt for index, _ in replies]
    similarities = cosine(embedder, originals, [rewrite for _, rewrite in replies])
    candidates: dict[int, list[Candidate]] = {}
    for (index, rewrite), original, similarity in zip(replies, originals, similarities, strict=True):
        earlier = [step.prompt for step in live[index].refinement.steps]
        fault = find_fault(original, rewrite, similarity, earlier, parameters.limits)
        candidates.setdefault(index, []).append(Candidate(rewrite, similarity, fault))
    return candidates


def rewrite_room(length: int, least: int) -> int:
    """Most tokens of the rewrite of a prompt of so many characters: `least`, doubled while the prompt would not fit."""
    room = least
    while room * CHARACTERS_A_TOKEN < length and room * 2 <= MOST_REWRITE_TOKENS:
        room *= 2
    return room


def _refiner_chats(row: _Live, fault: str | None, parameters: RefinementParameters) -> list[Chat]:
    """The refiner's chat, and shorter ones for a context that can't hold it."""
    history = row.attempts[-parameters.history :] if parameters.history else []
    chats = [
        refiner_chat(row.prompt, row.gradient, history, parameters.shots, fault),
        refiner_chat(row.prompt, row.gradient, (), parameters.shots, fault),
        refiner_chat(row.prompt, row.gradient, fault=fault),
        refiner_chat(row.prompt, row.gradient),
    ]
    return [chat for place, chat in enumerate(chats) if chat not in chats[:place]]


def _choose(
    detector: Detector, live: dict[int, _Live], candidates: dict[int, list[Candidate]], parameters: RefinementParameters
) -> dict[int, Candidate]:
    """Of each prompt's candidates that may stand, the one whose prompt alone is the least risky."""
    standing = {
        index: list({candidate.rewrite: candidate for candidate in drawn if candidate.fault is None}.values())
        for index, drawn in candidates.items()
    }
    rivals = [(index, candidate) for index, drawn in standing.items() if len(drawn) > 1 for candidate in drawn]
    verdicts = _judge(detector, [(candidate.rewrite, None) for _, candidate in rivals], parameters)
    chosen = {index: drawn[0] for index, drawn in standing.items() if drawn}
    lowest: dict[int, tuple[bool, float]] = {}
    for (index, candidate), verdict in zip(rivals, verdicts, strict=True):
        live[index].refinement.calls["detector"] += 1
        place = rank(verdict.mean, verdict.effort)
        if index not in lowest or place < lowest[index]:
            lowest[index], chosen[index] = place, candidate
    return chosen


def _generate(
    engine: TextGenerator,
    alternatives: Mapping[Key, Sequence[Chat]],
    live: dict[int, _Live],
    sampling: SamplingParameters,
    role: str,
) -> list[tuple[Key, Completion]]:
    """One batched call; a chat that the context can't hold gives way to its next, shorter one.

    A prompt of which no chat was answered gets the reason as its error.
    """
    pending = {key: list(chats) for key, chats in alternatives.items()}
    completions: dict[Key, Completion] = {}
    reasons: dict[int, str] = {}
    while pending:
        keys = list(pending)
        try:
            answers = dict(enumerate(engine.generate([pending[key][0] for key in keys], sampling)))
            failures: dict[int, str] = {}
            too_long: frozenset[int] = frozenset()
        except GenerationError as error:
            answers, failures, too_long = error.completions, error.failures, error.too_long
        for place, completion in answers.items():
            completions[keys[place]] = completion
            live[keys[place][0]].refinement.count(role, completion)
            del pending[keys[place]]
        for place, reason in failures.items():
            del pending[keys[place]][0]
            if place not in too_long or not pending[keys[place]]:
                del pending[keys[place]]
                reasons[keys[place][0]] = f"{role}: {reason}"
    for index in reasons.keys() - {index for index, _ in completions}:
        live[index].refinement.error = reasons[index]
    return [(key, completions[key]) for key in alternatives if key in completions]
