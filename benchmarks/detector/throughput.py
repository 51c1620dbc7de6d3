"""Pairs a second: `assess` against the bare encoder on the same tokens, and against transformers' own pipeline."""

import torch
from transformers import PreTrainedModel, pipeline

from benchmarks.detector.encoder import BATCH_SIZE, Buckets, classifier_of, encode
from benchmarks.detector.pairs import LabelledPairs
from benchmarks.detector.timing import interleave, per_second, ratio, stopwatch
from refinement.similarity import mean_states


def measure(detector: PreTrainedModel, pairs: LabelledPairs, rounds: int) -> dict:
    """Time the three sides in turn; what they make of the pairs is compared before, which warms them up.

    An over-long pair is cut for the encoder and for the pipeline, while `assess` reads it in windows: it counts against
    `assess`, and is left out of the comparison.
    """
    encodings, dropped = detector.encode_pairs(pairs.prompts, pairs.responses)
    buckets = Buckets.of(encodings, detector.tokenizer)
    # Their manner of calling, options and all.
    classify = pipeline(
        "text-classification",
        model=classifier_of(detector),
        tokenizer=detector.tokenizer,
        device=detector.device,
        batch_size=BATCH_SIZE,
        truncation=True,
    )
    texts = [
        {"text": prompt, "text_pair": response} for prompt, response in zip(pairs.prompts, pairs.responses, strict=True)
    ]
    whole = torch.tensor(dropped) == 0
    differences = {
        "risk_to_encoder_limit": _largest(_risk_difference(detector, pairs, buckets)[whole]),
        "states_to_hf_pipeline": _largest(_state_difference(detector, classify, texts, buckets)[whole]),
    }
    seconds = interleave(
        {
            "encoder": stopwatch(lambda: encode(detector.encoder, buckets.batches)),
            "assess": stopwatch(lambda: detector.assess(pairs.prompts, pairs.responses, batch_size=BATCH_SIZE)),
            "hf_pipeline": stopwatch(lambda: classify(texts)),
        },
        rounds,
    )
    return {
        "pairs": len(pairs),
        "over_long": int((~whole).sum()),
        "batch_size": BATCH_SIZE,
        "padding_share": buckets.padding,
        "largest_difference": differences,
        "pairs_per_second": {name: per_second(len(pairs), side) for name, side in seconds.items()},
        "ratio_to_encoder_limit": ratio(seconds["encoder"], seconds["assess"]),
        "ratio_to_hf_pipeline": ratio(seconds["hf_pipeline"], seconds["assess"]),
    }


@torch.inference_mode()
def _risk_difference(detector: PreTrainedModel, pairs: LabelledPairs, buckets: Buckets) -> torch.Tensor:
    """Between `assess` and the encoder's batches with the heads on top, of shape `(pairs, categories)`."""
    verdicts = detector.assess(pairs.prompts, pairs.responses, batch_size=BATCH_SIZE)
    assessed = torch.tensor([list(verdict.mean.values()) for verdict in verdicts])
    return assessed - buckets.restore(torch.cat([detector(**batch).risk for batch in buckets.batches]))


@torch.inference_mode()
def _state_difference(detector: PreTrainedModel, classify, texts: list, buckets: Buckets) -> torch.Tensor:
    """Between the mean states in the pipeline's encoder and in the detector's, of shape `(pairs, hidden)`."""
    theirs: list[torch.Tensor] = []

    def keep(encoder, args, kwargs, output):
        theirs.append(mean_states(output.last_hidden_state, kwargs["attention_mask"]))

    hook = classify.model.base_model.register_forward_hook(keep, with_kwargs=True)
    classify(texts)
    hook.remove()
    ours = [
        mean_states(detector.encoder(**batch).last_hidden_state, batch["attention_mask"]) for batch in buckets.batches
    ]
    return torch.cat(theirs) - buckets.restore(torch.cat(ours))


def _largest(difference: torch.Tensor) -> float:
    return difference.abs().max().item()
