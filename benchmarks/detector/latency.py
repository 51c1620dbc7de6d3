"""One pair's latency: `assess` against the bare encoder on the same tokens, and both by the pair's length."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from benchmarks.detector.encoder import encode
from benchmarks.detector.pairs import LabelledPairs
from benchmarks.detector.timing import interleave, ratio, stopwatch

PAIRS = 200  # spread evenly over the lengths
SHORTEST = 16  # tokens
ROUNDS_BY_LENGTH = 20


def measure(detector: PreTrainedModel, pairs: LabelledPairs, rounds: int) -> dict:
    """The figures; every pair in every round gives a ratio."""
    encodings, dropped = detector.encode_pairs(pairs.prompts, pairs.responses)
    whole = [row for row, lost in enumerate(dropped) if not lost]
    by_length = sorted(whole, key=lambda row: len(encodings[row]["input_ids"]))
    sample = [by_length[place] for place in np.linspace(0, len(whole) - 1, min(PAIRS, len(whole))).round().astype(int)]
    seconds: dict[str, list[float]] = {"assess": [], "encoder": []}
    for row in sample:
        for name, side in time_pair(detector, pairs.prompts[row], pairs.responses[row], rounds, seed=row).items():
            seconds[name] += side
    return {
        "pairs": len(sample),
        "milliseconds": {name: _milliseconds(side) for name, side in seconds.items()},
        "single_pair_ms_ratio": ratio(seconds["assess"], seconds["encoder"]),
        "by_length": by_tokens(detector, pairs),
    }


def by_tokens(detector: PreTrainedModel, pairs: LabelledPairs) -> list[dict]:
    """Both sides' latency on pairs of doubling length, up to the longest that the encoder takes."""
    text = " ".join(pairs.responses)
    limit = detector.config.max_length
    special = detector.tokenizer.num_special_tokens_to_add(pair=True)
    rows = []
    for tokens in [*(SHORTEST << power for power in range(limit.bit_length()) if SHORTEST << power < limit), limit]:
        prompt = first_words(detector.tokenizer, text, tokens // 4)
        response = first_words(detector.tokenizer, text, tokens - tokens // 4 - special)
        (encoding,), _ = detector.encode_pairs([prompt], [response])
        seconds = time_pair(detector, prompt, response, ROUNDS_BY_LENGTH, seed=tokens)
        milliseconds = {name: _milliseconds(side) for name, side in seconds.items()}
        rows.append({"tokens": len(encoding["input_ids"]), "milliseconds": milliseconds})
    return rows


def time_pair(detector: PreTrainedModel, prompt: str, response: str, rounds: int, seed: int) -> dict[str, list[float]]:
    """The seconds of both sides on one pair, after a round that doesn't count; `seed` orders their turns."""
    encodings, _ = detector.encode_pairs([prompt], [response])
    batch = detector.tokenizer.pad(encodings, return_tensors="pt")
    timers = {
        "assess": stopwatch(lambda: detector.assess(prompt, response)),
        "encoder": stopwatch(lambda: encode(detector.encoder, [batch])),
    }
    interleave(timers, 1)
    return interleave(timers, rounds, seed)


def first_words(tokenizer, text: str, tokens: int) -> str:
    """The words at the beginning of `text` that make at most so many tokens."""
    beginning = tokenizer(
        text, add_special_tokens=False, truncation=True, max_length=tokens + 1, return_offsets_mapping=True
    )
    end = beginning["offset_mapping"][-1][1]
    return text[:end].rpartition(" ")[0]


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1000 * float(np.median(seconds))
