"""The pairs that everything here is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from corpora.beavertails import load_beavertails


@dataclass(frozen=True)
class LabelledPairs:
    """Prompts with their responses.

    Args:
        prompts: the prompts.
        responses: a response for each.
        harmful: whether any label of the pair is set, of shape `(pairs,)`.
    """

    prompts: list[str]
    responses: list[str]
    harmful: np.ndarray

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "LabelledPairs":
        """The pairs of a data set, as `corpora.beavertails` loads it."""
        harmful: np.ndarray = np.greater(dataset["labels"], 0.5).any(1)
        return cls(dataset["prompt"][:], dataset["response"][:], harmful)

    @classmethod
    def read_test(cls, source: str, categories: Sequence[str]) -> "LabelledPairs":
        """The test pairs of a file or of a Hub data set, errors as `load_beavertails` raises them."""
        return cls.from_dataset(load_beavertails(source, categories, split="30k_test"))

    def __len__(self) -> int:
        return len(self.prompts)


def risks(verdicts: Sequence) -> np.ndarray:
    """d_j of each verdict, of shape `(pairs, categories)`."""
    return np.array([[*verdict.mean.values()] for verdict in verdicts])


def max_risk(verdicts: Sequence) -> np.ndarray:
    """max_j d_j of each verdict, of shape `(pairs,)`."""
    return np.array([verdict.max_risk for verdict in verdicts])
