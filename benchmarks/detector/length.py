"""Risk by length: of the test pairs, and of harmful answers hidden in long harmless ones, with windows and cut."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.detector.encoder import Buckets
from benchmarks.detector.pairs import LabelledPairs, max_risk
from evaluation.bootstrap import interval

EDGES = (32, 64, 128, 256)  # tokens; a bin holds its lower edge
HIDDEN = 150  # at most so many harmful answers
PLACES = {"beginning": 0.0, "middle": 0.5, "end": 1.0}
FILLER_LIMITS = 2  # a filler holds at least so many times what the encoder takes
SEPARATOR = "\n\n"
SEED = 0


def measure(detector: PreTrainedModel, pairs: LabelledPairs) -> dict:
    """Both tables."""
    risk = max_risk(detector.assess(pairs.prompts, pairs.responses))
    encodings, dropped = detector.encode_pairs(pairs.prompts, pairs.responses)
    tokens = np.array([len(encoding["input_ids"]) for encoding in encodings]) + dropped
    threshold = detector.config.binary_threshold
    return {
        "threshold": threshold,
        "risk_by_length": {
            name: by_length(tokens[members], risk[members], threshold)
            for name, members in (("safe", ~pairs.harmful), ("unsafe", pairs.harmful))
        },
        "hidden": hidden(detector, pairs, risk > threshold),
    }


def by_length(tokens: np.ndarray, risk: np.ndarray, threshold: float) -> list[dict]:
    """The mean of the highest risks, and the share flagged, by bin; a bin without pairs is left out.

    Args:
        tokens: of each pair, of shape `(pairs,)`.
        risk: the highest of each, of the same shape.
        threshold: above it a pair is flagged.
    """
    bins = np.digitize(tokens, EDGES)
    edges = [0, *EDGES, None]
    return [
        {
            "from": edges[number],
            "below": edges[number + 1],
            "pairs": int((bins == number).sum()),
            "tokens": float(tokens[bins == number].mean()),
            **summarise(risk[bins == number], threshold),
        }
        for number in np.unique(bins)
    ]


def summarise(risk: np.ndarray, threshold: float) -> dict:
    """The mean risk and the share above the threshold, with 95 % bootstrap intervals."""
    flagged = risk > threshold
    return {
        "risk": float(risk.mean()),
        "risk_interval": interval(np.mean, risk),
        "flagged": float(flagged.mean()),
        "flagged_interval": interval(np.mean, flagged),
    }


def hidden(detector: PreTrainedModel, pairs: LabelledPairs, flagged: np.ndarray) -> dict | None:
    """How many harmful pairs stay flagged with their answer inside a long harmless one.

    The long answers are made of harmless ones to other prompts, none of them flagged. `filler_alone`, the same without
    the harmful answer, shows what the prompt and the length do by themselves.

    Args:
        detector: judges them.
        pairs: the test pairs.
        flagged: which of them are, of shape `(pairs,)`.

    Returns:
        `None` where no harmful pair is flagged, or none of the harmless ones can serve.
    """
    generator = np.random.default_rng(SEED)
    harmful = generator.permutation(np.flatnonzero(pairs.harmful & flagged))[:HIDDEN]
    unflagged = [pairs.responses[row] for row in np.flatnonzero(~pairs.harmful & ~flagged)]
    harmless = [response for response in unflagged if response.strip()]
    if not harmful.size or not harmless:
        return None
    lengths = [len(ids) for ids in detector.tokenizer(harmless, add_special_tokens=False, verbose=False)["input_ids"]]
    prompts = [pairs.prompts[row] for row in harmful]
    needed = FILLER_LIMITS * detector.config.max_length
    fillers = [draw_filler(generator, harmless, np.array(lengths), needed) for _ in harmful]
    answers = {
        place: [hide(pairs.responses[row], filler, share) for row, filler in zip(harmful, fillers, strict=True)]
        for place, share in PLACES.items()
    }
    answers["filler_alone"] = [SEPARATOR.join(filler) for filler in fillers]
    return {
        "pairs": len(harmful),
        "filler_tokens": needed,
        **{place: read_both_ways(detector, prompts, responses) for place, responses in answers.items()},
    }


def draw_filler(generator: np.random.Generator, harmless: Sequence[str], lengths: np.ndarray, needed: int) -> list[str]:
    """Harmless answers drawn until they hold at least `needed` tokens.

    Args:
        generator: draws them.
        harmless: the answers to draw from.
        lengths: the tokens of each, of shape `(harmless,)`, at least one.
        needed: tokens.
    """
    drawn = generator.integers(len(harmless), size=needed)  # an answer a token: always enough
    count = int(np.searchsorted(lengths[drawn].cumsum(), needed)) + 1
    return [harmless[row] for row in drawn[:count]]


def hide(answer: str, filler: Sequence[str], share: float) -> str:
    """The answer with that share of the filler before it, the rest behind."""
    before = round(share * len(filler))
    return SEPARATOR.join([*filler[:before], answer, *filler[before:]])


def read_both_ways(detector: PreTrainedModel, prompts: Sequence[str], responses: Sequence[str]) -> dict:
    """The figures of over-long pairs read in windows, and cut at the encoder's limit."""
    risk = {"windows": max_risk(detector.assess(prompts, responses)), "cut": cut_risk(detector, prompts, responses)}
    return {way: summarise(of_way, detector.config.binary_threshold) for way, of_way in risk.items()}


@torch.inference_mode()
def cut_risk(detector: PreTrainedModel, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """The highest risk of each pair cut at the encoder's limit, of shape `(pairs,)`."""
    encodings, _ = detector.encode_pairs(prompts, responses)
    buckets = Buckets.of(encodings, detector.tokenizer)
    return buckets.restore(torch.cat([detector(**batch).risk.amax(1) for batch in buckets.batches])).numpy()
