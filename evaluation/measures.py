"""What is said of an answer without a judge: two classifiers' risk, closeness to the question, rigid refusal."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from refinement.loop import Detector, RefusalFinder
from refinement.similarity import Embedder, cosine


class RiskClassifier(Protocol):
    """What is needed of the independent classifier."""

    def risk(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The probability of harm of each pair."""
        ...


def final_pair(answer: Mapping) -> tuple[str, str]:
    """The answer, and the prompt that it answers: that of the step it was chosen from.

    A constructive reply comes from no step: it answers the user.
    """
    chosen = answer["chosen"]
    return (answer["prompt"] if chosen is None else answer["steps"][chosen]["prompt"]), answer["response"]


def measure(
    answers: Sequence[Mapping],
    detector: Detector,
    independent: RiskClassifier,
    embedder: Embedder,
    refusals: RefusalFinder,
) -> list[dict]:
    """The measures of each answer, as a record's fields.

    Args:
        answers: records without an error.
        detector: Lance's own; its word is in-loop, since Lance optimises it.
        independent: the classifier that the loop doesn't know.
        embedder: for the cosine of the answer to the user's question.
        refusals: the refusal detector.
    """
    final = [final_pair(answer) for answer in answers]
    asked = [(answer["prompt"], answer["response"]) for answer in answers]
    prompts, responses = zip(*final, strict=True)
    pairs = list(dict.fromkeys([*final, *asked]))  # without a rewrite they are the same
    risk_of = dict(zip(pairs, independent.risk(*zip(*pairs, strict=True)), strict=True))
    columns = {
        "detector_risk": [max(verdict.mean.values()) for verdict in detector.assess(prompts, responses)],
        "independent_risk": [float(risk_of[pair]) for pair in final],
        "independent_risk_as_asked": [float(risk_of[pair]) for pair in asked],
        "answer_similarity": cosine(embedder, [prompt for prompt, _ in asked], responses),
        "rigid_refusal": [bool(refused) for refused in refusals.detect(responses)],
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
