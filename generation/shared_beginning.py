"""Attention of a batch whose rows begin alike: the beginning's keys and values are kept and read once, not once a row.

A row's attention falls in two, over the beginning and over its own tokens; their log-sum-exps weigh the parts (as in
Hydragen, arXiv 2402.05099). While tokens are written, one a step, query heads that share a key head are laid side by
side as queries, so that no key is repeated for them either.
"""

from typing import NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_beginning"  # its name for `attn_implementation`
ROOM = 64  # tokens for which a layer makes room at once

# The public function doesn't return the log-sum-exp. Private, but requirements.txt pins torch to one release.
flash_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class States(NamedTuple):
    """Keys, or values, of a batch: of the beginning, (1, K, S, D), and of each row's own tokens, (B, K, T, D)."""

    beginning: torch.Tensor
    own: torch.Tensor


class SharedBeginningLayer(DynamicLayer):
    """A layer's cache: the beginning once, and each row's own tokens in a buffer that grows by [`ROOM`].

    Args:
        beginning: the layer of a cache that has read the beginning, one row.
    """

    keys: torch.Tensor | None
    values: torch.Tensor | None

    def __init__(self, beginning: DynamicLayer):
        super().__init__()
        assert beginning.keys is not None and beginning.values is not None
        self.beginning = beginning.keys, beginning.values  # (1, K, S, D) each
        self.length = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[States, States]:  # type: ignore[override]
        """Keep the rows' next keys and values, (B, K, Q, D), and return all."""
        before, self.length = self.length, self.length + key_states.shape[2]
        self.keys = _append(self.keys, before, key_states)
        self.values = _append(self.values, before, value_states)
        own = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        return States(self.beginning[0], own[0]), States(self.beginning[1], own[1])

    def get_seq_length(self) -> int:
        """Tokens that a row has behind it, with the beginning."""
        return self.beginning[0].shape[2] + self.length


def _append(buffer: torch.Tensor | None, length: int, states: torch.Tensor) -> torch.Tensor:
    """`states` behind the buffer's first `length` tokens, in a longer buffer where it is full."""
    end = length + states.shape[2]
    if buffer is None or end > buffer.shape[2]:
        batch, heads, _, width = states.shape
        longer = states.new_empty(batch, heads, end + ROOM, width)
        if buffer is not None:
            longer[:, :, :length] = buffer[:, :, :length]
        buffer = longer
    buffer[:, :, length:end] = states
    return buffer


def share(cache: DynamicCache):
    """Open a cache that has read the beginning, in a batch of one, to a batch of any size."""
    cache.layers = [SharedBeginningLayer(layer) for layer in cache.layers]


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model's attention can be this one: on the CPU, over every earlier token, with transformers' default."""
    layers = DynamicCache(config=model.config).layers
    forgets_nothing = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    latent = "v_head_dim" in model.config.to_dict()  # values narrower than keys: not for the kernel
    return model.device.type == "cpu" and forgets_nothing and not latent and model.config._attn_implementation == "sdpa"


def shared_beginning_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | States,
    value: torch.Tensor | States,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of the queries, (B, H, Q, D); where nothing is shared, transformers' own.

    Args:
        module: the model's attention layer.
        query: (B, H, Q, D).
        key: (B, K, T, D), or what a [`SharedBeginningLayer`] keeps.
        value: as `key`.
        attention_mask: (B, 1, Q, S + T), true where a query may look.
        scaling: of the scores.

    Returns:
        (B, Q, H, D), and no weights.
    """
    if not isinstance(key, States) or not isinstance(value, States):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, length, width = query.shape
    if length > 1:  # side by side, the queries would repeat their mask, which is larger here than the keys
        group = heads // key.own.shape[1]
        key, value = (States(*(repeat_kv(part, group) for part in states)) for states in (key, value))
    key_heads = key.own.shape[1]
    queries = heads // key_heads * length
    query = query.reshape(batch, key_heads, queries, width)  # (B, K, G·Q, D)
    mask = None
    if attention_mask is not None:
        own_mask = attention_mask[..., key.beginning.shape[2] :]  # (B, 1, Q, T)
        # Not -inf: a padding token looks at nothing, and must not become NaN.
        mask = torch.zeros_like(own_mask, dtype=query.dtype).masked_fill_(~own_mask, torch.finfo(query.dtype).min)
    own, own_size = flash_attention(query, key.own, value.own, attn_mask=mask, scale=scaling)
    together = query.transpose(0, 1).reshape(1, key_heads, batch * queries, width)
    common, common_size = flash_attention(together, key.beginning, value.beginning, scale=scaling)
    common = common.view(key_heads, batch, queries, width).transpose(0, 1)  # (B, K, G·Q, D)
    common_size = common_size.view(key_heads, batch, queries).transpose(0, 1)  # (B, K, G·Q), as own_size
    share_of_common = torch.sigmoid(common_size - own_size).unsqueeze(-1).to(query.dtype)
    output = torch.lerp(own, common, share_of_common)
    return output.reshape(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, shared_beginning_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
