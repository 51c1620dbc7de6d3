"""Splits that keep all rows of a prompt on one side."""

import hashlib

from datasets import Dataset


def normalise(prompt: str) -> str:
    """The prompt as compared across splits: lower case, white space folded."""
    return " ".join(prompt.lower().split())


def is_held_out(prompt: str, share: float, seed: int) -> bool:
    """Whether a prompt belongs to the validation split: the same answer for it in every file.

    Args:
        prompt: compared as `normalise` has it.
        share: the validation split's share of the distinct prompts, in (0, 1).
        seed: of the draw.
    """
    digest = hashlib.sha256(f"{seed}:{normalise(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_by_prompt(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a validation split by prompt, alike in every data set cut with the same share and seed.

    Args:
        dataset: with a column `prompt`.
        share: see `is_held_out`.
        seed: see `is_held_out`.

    Returns:
        The rest, and the validation split; no prompt stands in both.
    """
    held_out = [is_held_out(prompt, share, seed) for prompt in dataset["prompt"]]
    rest = [row for row, held in enumerate(held_out) if not held]
    validation = [row for row, held in enumerate(held_out) if held]
    return dataset.select(rest), dataset.select(validation)
