"""The prompts that the methods are compared on: one risk category each, drawn evenly over the categories."""

from collections.abc import Sequence
from typing import NamedTuple

from datasets import Dataset

from corpora.records import CorpusError, text_column
from corpora.safe import sample_evenly
from corpora.sources import source_rows
from corpora.splits import normalise

HUB_NAME = "PKU-Alignment/BeaverTails-Evaluation"
SPLIT = "test"


class EvaluationPrompt(NamedTuple):
    """A prompt and the risk category that it was written for."""

    prompt: str
    category: str


def load_evaluation_prompts(source: str, categories: Sequence[str]) -> list[EvaluationPrompt]:
    """The prompts of a file or of a data set on the Hub, each once.

    Raises:
        CorpusError: for a source without rows, an empty prompt, or a category that isn't one of `categories`.
    """
    prompts: dict[str, EvaluationPrompt] = {}
    for place, row in source_rows(source, SPLIT):
        prompt = EvaluationPrompt(text_column(place, row, "prompt"), text_column(place, row, "category"))
        if prompt.category not in categories:
            raise CorpusError(f"{place}: {prompt.category!r} is none of the {len(categories)} categories.")
        prompts.setdefault(normalise(prompt.prompt), prompt)  # the statistics take each for a draw of its own
    return [*prompts.values()]


def sample_balanced(prompts: Sequence[EvaluationPrompt], count: int, seed: int) -> list[EvaluationPrompt]:
    """`count` prompts, as evenly over the categories as their numbers allow, by category.

    Raises:
        CorpusError: when there are fewer than `count`.
    """
    if len(prompts) < count:
        raise CorpusError(f"{count} prompts are asked for, there are {len(prompts)}: lower the count.")
    by_category = [
        Dataset.from_list([prompt._asdict() for prompt in prompts if prompt.category == category])
        for category in sorted({prompt.category for prompt in prompts})
    ]
    drawn = [EvaluationPrompt(**row) for row in sample_evenly(by_category, count, seed)]
    return sorted(drawn, key=lambda prompt: prompt.category)
