"""The refusal direction: where a model's hidden states of harmful prompts lie, seen from those of harmless ones.

After Zou et al. (2023), Representation Engineering, and Arditi et al. (2024), Refusal in Language Models.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module, ModuleList
from torch.nn.functional import normalize
from transformers import GenerationConfig

from errors import UserError
from evaluation.methods.drafts import plain_chat
from generation.base import PromptTooLongError
from generation.transformers_engine import TransformersEngine

Kind = Literal["mean", "pca"]


class DirectionError(UserError):
    """A direction that can't be computed or kept."""


@dataclass(frozen=True)
class RefusalDirection:
    """A direction at some layers.

    Args:
        vectors: unit vectors towards harmful, of shape `(layers, hidden)`.
        norms: the mean length of the hidden states of all prompts, of shape `(layers,)`.
    """

    vectors: Tensor
    norms: Tensor


def decoder_layers(engine: TransformersEngine) -> ModuleList:
    """The decoder's layers, whatever the architecture calls them.

    Raises:
        DirectionError: for an architecture that keeps them in no list.
    """
    count = engine.model.config.get_text_config().num_hidden_layers
    for module in engine.model.get_decoder().modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return module
    raise DirectionError(f"repe: {engine.name} has no list of {count} decoder layers: choose another backbone.")


@torch.inference_mode()
def read_states(engine: TransformersEngine, prompts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """The hidden states that leave some layers at each prompt's last token, of shape `(prompts, layers, hidden)`.

    Args:
        engine: holds the model.
        prompts: each is read as a chat, up to where its answer begins.
        layers: places of the decoder layers.

    Raises:
        DirectionError: for no prompts, or one that the model's context can't hold.
    """
    if not prompts:
        raise DirectionError("repe: the direction needs at least one harmful and one harmless prompt.")
    try:
        encoded = engine.encoder.encode([plain_chat(prompt) for prompt in prompts], engine.context_length)
    except PromptTooLongError as error:
        raise DirectionError(f"repe: of the prompts for the direction, {error}") from None
    modules = [decoder_layers(engine)[layer] for layer in layers]
    config = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=engine.tokenizer.pad_token_id)
    states: list[list[Tensor]] = [[] for _ in modules]  # by layer, then by batch
    with ExitStack() as hooks:
        for module, kept in zip(modules, states, strict=True):
            hooks.enter_context(module.register_forward_hook(_keep_last(kept)))
        for start in range(0, len(encoded), engine.batch_size):
            rows = encoded[start : start + engine.batch_size]
            batch = engine.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(engine.device)
            # One step of what answers a prompt: padding and positions are as they will be then.
            engine.model.generate(**batch, generation_config=config)
    return torch.stack([torch.cat(kept) for kept in states], dim=1)


def _keep_last(kept: list[Tensor]):
    def hook(module: Module, inputs, output):
        kept.append(hidden_states(output)[:, -1].float().cpu())  # (B, H); the padding is on the left

    return hook


def hidden_states(output: Tensor | tuple) -> Tensor:
    """The hidden states in what a decoder layer gives: they alone, or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def find_direction(harmful: Tensor, harmless: Tensor, kind: Kind) -> RefusalDirection:
    """The direction between two sets of hidden states.

    Args:
        harmful: of shape `(harmful prompts, layers, hidden)`.
        harmless: of shape `(harmless prompts, layers, hidden)`.
        kind: `"mean"`, the difference of the means; `"pca"`, the first principal component of the paired differences
            taken both ways round, so that what they share counts; turned towards harmful.

    Raises:
        DirectionError: when the sets don't pair for `"pca"`, or their means don't differ.
    """
    vectors = harmful.mean(0) - harmless.mean(0)  # (L, H)
    if not vectors.norm(dim=-1).gt(0).all():
        raise DirectionError("repe: the harmful and the harmless prompts don't differ: give other ones.")
    if kind == "pca":
        if len(harmful) != len(harmless):
            raise DirectionError(f"repe: {len(harmful)} harmful and {len(harmless)} harmless prompts make no pairs.")
        components = torch.linalg.svd((harmful - harmless).transpose(0, 1), full_matrices=False).Vh[:, 0]  # (L, H)
        vectors = components * torch.where((components * vectors).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return RefusalDirection(normalize(vectors, dim=-1), torch.cat([harmful, harmless]).norm(dim=-1).mean(0))
