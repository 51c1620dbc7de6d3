"""Lance-nr (Table 2): no refinement; the detector judges the backbone's answer, and it stands whatever its risk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from evaluation.methods.base import Answer
from evaluation.methods.lance import Lance, as_answer


class LanceNr(Lance):
    """Lance with no rewrites and no reply in an unsafe answer's place; what it is built of is Lance's."""

    name: ClassVar[str] = "lance-nr"

    @property
    def most_calls(self) -> Mapping[str, int]:
        """See [`Method.most_calls`]."""
        return {"backbone": 1}

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]."""
        unrefined = replace(self, parameters=replace(self.parameters, max_steps=0))
        for place, refinement in unrefined.refine(prompts):
            yield place, as_answer(refinement, refinement.steps[0] if refinement.steps else None)
