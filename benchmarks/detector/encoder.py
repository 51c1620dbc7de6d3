"""The detector's encoder by itself: the limit of what the detector can reach, and what its peers are built on."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

BATCH_SIZE = 64


@dataclass(frozen=True)
class Buckets:
    """Encodings as batches ready for the encoder, the longest first, padded as little as their size allows.

    Args:
        batches: what the encoder takes.
        order: the place of each row of the batches in the order given.
    """

    batches: list
    order: list[int]

    @classmethod
    def of(cls, encodings: Sequence[dict[str, list[int]]], tokenizer) -> "Buckets":
        """The buckets of `encodings`, padded by `tokenizer`."""
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]["input_ids"]))
        starts = range(0, len(order), BATCH_SIZE)
        batches = [
            tokenizer.pad([encodings[row] for row in order[start : start + BATCH_SIZE]], return_tensors="pt")
            for start in starts
        ]
        return cls(batches, order)

    @property
    def padding(self) -> float:
        """The share of padding among the tokens that the encoder reads."""
        masks = [batch["attention_mask"] for batch in self.batches]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def restore(self, rows: Tensor) -> Tensor:
        """What came of the batches, one row a pair, in the order given."""
        return rows[torch.tensor(self.order).argsort()]


@torch.inference_mode()
def encode(encoder: PreTrainedModel, batches: Sequence):
    """The forward passes, and nothing else."""
    for batch in batches:
        encoder(**batch)


def save_encoder(detector: PreTrainedModel, folder: str):
    """Write the encoder and its tokenizer as a checkpoint of their own."""
    detector.encoder.save_pretrained(folder)
    detector.tokenizer.save_pretrained(folder)


def load_classifier(folder: str, labels: int, attn_implementation: str | None = None) -> PreTrainedModel:
    """Transformers' own classifier over the encoder in `folder`, its head fresh."""
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=labels,
        problem_type="multi_label_classification",
        attn_implementation=attn_implementation,
    )


def classifier_of(detector: PreTrainedModel) -> PreTrainedModel:
    """Transformers' own classifier with the detector's encoder and as many labels, in evaluation mode."""
    with TemporaryDirectory() as folder:
        save_encoder(detector, folder)
        return load_classifier(folder, detector.config.num_labels).eval()
