"""Splits that keep all rows of a prompt on one side."""

import random

from datasets import Dataset


def normalise(prompt: str) -> str:
    """The prompt as compared across splits: lower case, white space folded."""
    return " ".join(prompt.lower().split())


def split_by_prompt(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a validation split by prompt.

    Args:
        dataset: with a column `prompt`.
        share: the validation split's share of the distinct prompts, in (0, 1).
        seed: of the draw.

    Returns:
        The rest, and the validation split; no prompt stands in both.
    """
    keys = [normalise(prompt) for prompt in dataset["prompt"]]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    held_out = set(prompts[: max(1, round(share * len(prompts)))])
    rest = [row for row, key in enumerate(keys) if key not in held_out]
    validation = [row for row, key in enumerate(keys) if key in held_out]
    return dataset.select(rest), dataset.select(validation)
