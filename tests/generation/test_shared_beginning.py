import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.integrations.sdpa_attention import repeat_kv

from generation.shared_beginning import ATTENTION, ROOM, States, can_share, share, shared_beginning_attention

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([(1, 1), (4, 2), (6, 2)]),
    st.integers(1, 40),
    st.integers(0, 2**16),
)
def test_it_is_attention_over_the_beginning_and_the_rows_own_tokens(batch, queries, heads, own, seed):
    torch.manual_seed(seed)
    own = own + queries
    shapes = [(1, heads[1], 7, 8)] * 2 + [(batch, heads[1], own, 8)] * 2
    key_beginning, value_beginning, key_own, value_own = (3 * torch.randn(shape) for shape in shapes)
    query = torch.randn(batch, heads[0], queries, 8)
    mask = torch.ones(batch, 1, queries, own, dtype=torch.bool).tril(own - queries)
    padding = torch.randint(0, own - queries + 1, (batch,))
    mask &= (torch.arange(own) >= padding[:, None])[:, None, None]
    mask = torch.cat([torch.ones(batch, 1, queries, 7, dtype=torch.bool), mask], dim=-1)
    output, _ = shared_beginning_attention(
        torch.nn.Identity(), query, States(key_beginning, key_own), States(value_beginning, value_own), mask
    )
    key, value = (
        repeat_kv(torch.cat([beginning.expand(batch, -1, -1, -1), rows], dim=2), heads[0] // heads[1])
        for beginning, rows in ((key_beginning, key_own), (value_beginning, value_own))
    )
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


def test_a_row_that_looks_only_at_the_beginning_gets_that_alone():
    """As a padding token does."""
    torch.manual_seed(0)
    beginning, own, query = torch.randn(1, 2, 5, 8), torch.randn(3, 2, 4, 8), torch.randn(3, 2, 1, 8)
    mask = torch.zeros(3, 1, 1, 9, dtype=torch.bool)
    mask[..., :5] = True
    output, _ = shared_beginning_attention(
        torch.nn.Identity(), query, States(beginning, own), States(beginning, own), mask
    )
    everyone = beginning.expand(3, -1, -1, -1)
    expected = scaled_dot_product_attention(query, everyone, everyone).transpose(1, 2)
    torch.testing.assert_close(output, expected)


def test_a_model_predicts_the_same_past_the_room_of_its_cache():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    beginning, rest = torch.randint(50, (1, 9)), torch.randint(50, (3, ROOM + 40))
    with torch.inference_mode():
        expected = model(torch.cat([beginning.expand(3, -1), rest], dim=1)).logits[:, 9:]
        assert can_share(model)
        model.set_attn_implementation(ATTENTION)
        cache = model(beginning).past_key_values
        share(cache)
        parts = [model(part, past_key_values=cache).logits for part in rest.split([5, *[1] * (ROOM + 35)], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-4)
    assert cache.get_seq_length() == 9 + ROOM + 40


def test_without_a_beginning_it_is_transformers_own():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    tokens = torch.randint(50, (2, 20))
    with torch.inference_mode():
        expected = model(tokens).logits
        model.set_attn_implementation(ATTENTION)
        assert torch.equal(model(tokens, past_key_values=DynamicCache(config=model.config)).logits, expected)


@pytest.mark.parametrize(
    "model",
    [
        MistralForCausalLM(MistralConfig(**TINY, sliding_window=8)),
        DeepseekV3ForCausalLM(DeepseekV3Config(**TINY, n_routed_experts=2, n_group=1, topk_group=1)),
        LlamaForCausalLM._from_config(LlamaConfig(**TINY), attn_implementation="eager"),
        LlamaForCausalLM(LlamaConfig(**TINY)).to("meta"),
    ],
    ids=["a window", "values narrower than keys", "another attention", "another device"],
)
def test_a_model_that_it_would_not_serve_keeps_its_own_attention(model):
    assert not can_share(model)
