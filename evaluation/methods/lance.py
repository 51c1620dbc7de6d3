"""Lance: the full method, as its user gets it (§3.3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from evaluation.methods.base import Answer, TraceStep
from generation.base import TextGenerator
from refinement.loop import Detector, RefinementParameters, RefusalFinder, refine
from refinement.similarity import Embedder
from refinement.trace import Refinement, Step


@dataclass(frozen=True)
class Lance:
    """The refinement loop; a prompt without a safe answer gets the constructive reply.

    Args:
        backbone: answers.
        refiner: rewrites.
        detector: judges the pairs.
        embedder: measures how close a rewrite stays.
        parameters: of the loop, with the decoding of both engines; the backbone's batch size replaces the one in it.
        refusals: tells an answer that the loop doesn't take for one.
    """

    backbone: TextGenerator
    refiner: TextGenerator
    detector: Detector
    embedder: Embedder
    parameters: RefinementParameters
    refusals: RefusalFinder | None = None
    name: ClassVar[str] = "lance"

    @property
    def most_calls(self) -> Mapping[str, int]:
        """See [`Method.most_calls`]; a step draws its candidates a second time where none of them may stand."""
        steps = self.parameters.max_steps
        return {"backbone": 1 + steps, "refiner": 2 * self.parameters.candidates * steps}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]."""
        for place, refinement in self.refine(prompts):
            yield place, as_answer(refinement, refinement.best if refinement.converged else None)

    def refine(self, prompts: Sequence[str]) -> Iterator[tuple[int, Refinement]]:
        """What the loop makes of each prompt."""
        parameters = replace(self.parameters, batch_size=self.backbone.batch_size)
        return refine(prompts, self.backbone, self.refiner, self.detector, self.embedder, parameters, self.refusals)


def as_answer(refinement: Refinement, chosen: Step | None) -> Answer:
    """A refinement as a method's answer.

    Args:
        refinement: what came of a prompt.
        chosen: the step whose answer is given to the user; without one it is the constructive reply.
    """
    failed = refinement.error is not None
    response = chosen.response if chosen else refinement.response
    return Answer(
        response=None if failed else response,
        steps=[
            TraceStep(
                step.prompt, step.response, step.risk, step.effort, step.gradient or None, step.note, step.finish_reason
            )
            for step in refinement.steps
        ],
        chosen=refinement.steps.index(chosen) if chosen and not failed else None,
        calls={"backbone": refinement.calls["target"], "refiner": refinement.calls["refiner"]},
        tokens=refinement.tokens,
        seconds=refinement.seconds,
        converged=None if failed else refinement.converged,
        error=refinement.error,
    )
