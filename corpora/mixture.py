"""The training mixture: labelled pairs, harmless rows, prompts alone, and the weight of each label."""

import random

import numpy as np
from datasets import Dataset, List, Value

MIN_WORDS_ALONE = 12  # from here on, a response tells its risk without its prompt


def drop_responses(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Let the prompt stand alone in a share of the rows, labels kept: the risk that this prompt draws."""
    draw = random.Random(seed)
    responses = [None if draw.random() < share else response for response in dataset["response"]]
    return _with_response(dataset, responses)


def exchange_prompts(dataset: Dataset, others: Dataset, share: float, seed: int) -> Dataset:
    """Set the response under a prompt of other rows, in a share of the rows, labels kept.

    With harmful answers under harmless prompts, and harmless ones under risky prompts, the answer decides. One of a few
    words ("Yes, do.") means nothing without its own prompt, and keeps it.

    Args:
        dataset: the rows.
        others: where the prompts come from; without any, nothing is exchanged.
        share: in [0, 1], of the rows whose response stands alone.
        seed: of the draw.
    """
    prompts = others["prompt"][:]
    if not prompts:
        return dataset
    draw = random.Random(seed)

    def exchange(row: dict) -> dict:
        stands_alone = row["response"] is not None and len(row["response"].split()) >= MIN_WORDS_ALONE
        return {"prompt": draw.choice(prompts) if stands_alone and draw.random() < share else row["prompt"]}

    return dataset.map(exchange, load_from_cache_file=False)


def splice_safe(dataset: Dataset, safe: Dataset, share: float, seed: int) -> Dataset:
    """Set a harmless response before or behind the response in a share of the rows, labels kept.

    Harm then stands anywhere in an answer, in answers of any length, beside text that isn't BeaverTails' own.

    Args:
        dataset: the rows.
        safe: where the harmless responses come from; without any, nothing is spliced.
        share: in [0, 1].
        seed: of the draw.
    """
    harmless = [response for response in safe["response"] if response is not None]
    draw = random.Random(seed)

    def splice(response: str | None) -> str | None:
        if response is None or not harmless or draw.random() >= share:
            return response
        parts = [response, draw.choice(harmless)]
        draw.shuffle(parts)
        return "\n\n".join(parts)

    return _with_response(dataset, [splice(response) for response in dataset["response"]])


def _with_response(dataset: Dataset, responses: list[str | None]) -> Dataset:
    feature = dataset.features["response"]
    return dataset.remove_columns("response").add_column("response", responses, feature=feature)


def with_loss_weights(dataset: Dataset, weights: np.ndarray) -> Dataset:
    """The rows with a column `loss_weights`, of shape `(rows, categories)`."""
    return dataset.add_column("loss_weights", weights.tolist(), feature=List(Value("float32")))


def label_weights(labels: np.ndarray, category_balance: float, safety_balance: float) -> np.ndarray:
    """How much each label counts in the cross-entropies.

    Args:
        labels: of shape `(rows, categories)`, in [0, 1].
        category_balance: the weight of a category's positives is (negatives / positives) to this power, where
            positives are the fewer; 0 for none.
        safety_balance: the weight of safe rows is (unsafe rows / safe rows) to this power; 0 for none.

    Returns:
        Weights of the same shape, with mean 1.
    """
    positives = labels.sum(0).clip(min=1)
    positive_weight = ((len(labels) - positives) / positives).clip(min=1) ** category_balance  # (14,)
    safe = labels.max(1) <= 0.5  # (rows,)
    safe_weight = (max((~safe).sum(), 1) / max(safe.sum(), 1)) ** safety_balance
    row_weight = np.where(safe, safe_weight, 1.0)
    weights = row_weight[:, None] * (1 + (positive_weight - 1) * labels)
    return (weights / weights.mean()).astype(np.float32)
