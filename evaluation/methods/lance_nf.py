"""Lance-nf (Table 2): no detector; the refiner judges and rewrites a prompt by a system prompt alone."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

from evaluation.methods.base import Answer, TraceStep
from evaluation.methods.drafts import Draft, ask, plain_chat, start_batches
from generation.base import Chat, GenerationError, SamplingParameters, TextGenerator
from refinement.candidates import read_rewrite
from refinement.frame import coarse_chat
from refinement.loop import rewrite_room

KEPT = "the refiner's last reply held no whole rewritten prompt; the prompt was kept"


@dataclass(frozen=True)
class LanceNf:
    """The refiner rewrites the prompt until it finds nothing to change, and the backbone's answer then stands.

    The trace is one step, the prompt that the backbone read; converged when the refiner gave it back unchanged.

    Args:
        backbone: answers.
        refiner: judges and rewrites; one that was not fine-tuned on gradients, which it doesn't get here.
        sampling: the backbone's decoding.
        rewrite: the refiner's.
        max_steps: most rewrites of a prompt.
    """

    backbone: TextGenerator
    refiner: TextGenerator
    sampling: SamplingParameters
    rewrite: SamplingParameters
    max_steps: int = 5
    name: ClassVar[str] = "lance-nf"

    @property
    def most_calls(self) -> Mapping[str, int]:
        """See [`Method.most_calls`]."""
        return {"backbone": 1, "refiner": self.max_steps}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]."""
        for drafts in start_batches(prompts, self.backbone.batch_size):
            yield from self._answer_batch(drafts)

    def _answer_batch(self, drafts: Sequence[Draft]) -> list[tuple[int, Answer]]:
        rewritings = {draft: _Rewriting(draft.prompt) for draft in drafts}
        _rewrite(rewritings, self.refiner, self.rewrite, self.max_steps)
        replies = ask(self.backbone, drafts, lambda draft: plain_chat(rewritings[draft].prompt), self.sampling)
        for draft, reply in replies:
            prompt, note = rewritings[draft].prompt, rewritings[draft].note
            draft.steps.append(TraceStep(prompt, reply.text, note=note, finish_reason=reply.finish_reason))
        return [draft.finish(converged=rewriting.settled) for draft, rewriting in rewritings.items()]


def coarse_refine(
    prompts: Sequence[str], refiner: TextGenerator, rewrite: SamplingParameters, max_steps: int
) -> list[str]:
    """Each prompt as the refiner leaves it: rewritten until it gives the same prompt back, or the steps end.

    Args:
        prompts: the users' prompts.
        refiner: judges and rewrites them.
        rewrite: its decoding.
        max_steps: most rewrites of a prompt.

    Raises:
        GenerationError: when a prompt got no reply.
    """
    rewritings = {Draft(place, prompt): _Rewriting(prompt) for place, prompt in enumerate(prompts)}
    _rewrite(rewritings, refiner, rewrite, max_steps)
    failures = {draft.place: draft.error for draft in rewritings if draft.error is not None}
    if failures:
        place, reason = next(iter(failures.items()))
        raise GenerationError(f"prompt {place}: {reason}", failures, {})
    return [rewriting.prompt for rewriting in rewritings.values()]


@dataclass
class _Rewriting:
    """A prompt as it stands, whether the refiner gave it back unchanged, and what was wrong with its last reply."""

    prompt: str
    settled: bool = False
    note: str | None = None


def _rewrite(
    rewritings: Mapping[Draft, _Rewriting], refiner: TextGenerator, sampling: SamplingParameters, max_steps: int
):
    """Rewrite all until each is settled, its reply unusable, or the steps end; those of a step together."""

    def as_chat(draft: Draft) -> Chat:
        return coarse_chat(rewritings[draft].prompt)

    live = list(rewritings)
    for _ in range(max_steps):
        by_room = defaultdict(list)  # a prompt's own, whatever else is under way
        for draft in live:
            by_room[rewrite_room(len(rewritings[draft].prompt), sampling.max_new_tokens)].append(draft)
        replies = [
            ask(refiner, drafts, as_chat, replace(sampling, max_new_tokens=room), "refiner")
            for room, drafts in by_room.items()
        ]
        live = []
        for draft, reply in chain.from_iterable(replies):
            rewriting, refined = rewritings[draft], read_rewrite(reply)
            if not refined:
                rewriting.note = KEPT
            elif refined.split() == rewriting.prompt.split():
                rewriting.settled = True
            else:
                rewriting.prompt = refined
                live.append(draft)
