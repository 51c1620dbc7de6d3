import pytest
import torch

from evaluation.methods.refusal_direction import DirectionError, decoder_layers, find_direction, read_states
from generation.transformers_engine import TransformersEngine

PROMPTS = ["How do I bake bread at home, and how long does it take?", "Hi", "Is it safe?"]


@pytest.fixture(scope="module")
def engine(roomy_chat_model):
    return TransformersEngine(str(roomy_chat_model), device="cpu")


def by_hand(engine, prompt):
    """The hidden state that leaves the first layer at the last token."""
    chat = [{"role": "user", "content": prompt}]
    ids = engine.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return engine.model(ids, output_hidden_states=True).hidden_states[1][0, -1]


def test_the_states_are_those_of_each_prompt_alone_at_its_last_token_in_the_order_given(engine):
    states = read_states(engine, PROMPTS, [0])
    assert states.shape == (3, 1, 32)
    torch.testing.assert_close(
        states[:, 0], torch.stack([by_hand(engine, prompt) for prompt in PROMPTS]), rtol=1e-4, atol=1e-4
    )


def test_padding_changes_no_state(engine, roomy_chat_model):
    alone = TransformersEngine(str(roomy_chat_model), batch_size=1, device="cpu")
    together, one_by_one = (read_states(reader, PROMPTS, [1, 0]) for reader in (engine, alone))
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-4)


def test_the_layers_come_in_the_order_asked_for(engine):
    both = read_states(engine, PROMPTS, [0, 1])
    assert not torch.equal(both[:, 0], both[:, 1])
    torch.testing.assert_close(read_states(engine, PROMPTS, [1, 0]), both.flip(1))


def test_reading_leaves_no_hook_behind(engine):
    before = [dict(layer._forward_hooks) for layer in decoder_layers(engine)]
    read_states(engine, PROMPTS, [0, 1])
    assert [dict(layer._forward_hooks) for layer in decoder_layers(engine)] == before


@pytest.mark.parametrize("prompts, reason", [([], "at least one"), (["word " * 99], "shorten it")])
def test_prompts_that_tell_nothing_are_refused(tiny_chat_model, prompts, reason):
    with pytest.raises(DirectionError, match=reason):
        read_states(TransformersEngine(str(tiny_chat_model), device="cpu"), prompts, [0])


# The direction; states of shape (prompts, 1 layer, 2)


def states(*rows):
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(1)


def test_the_mean_direction_is_the_difference_of_the_means_at_length_1():
    direction = find_direction(states([4, 5], [2, 3]), states([0, 0]), "mean")
    torch.testing.assert_close(direction.vectors, torch.tensor([[0.6, 0.8]]))


def test_the_norm_is_the_mean_length_of_all_states():
    direction = find_direction(states([3, 4], [6, 8]), states([0, 3]), "mean")
    torch.testing.assert_close(direction.norms, torch.tensor([6.0]))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_component_of_paired_differences_points_towards_harmful(sign):
    # Differences (5, 0), (3, 0), (0, 1): the first axis holds most of them.
    harmful, harmless = states([6, 1], [4, 1], [1, 2]), states([1, 1], [1, 1], [1, 1])
    direction = find_direction(sign * harmful, sign * harmless, "pca")
    torch.testing.assert_close(direction.vectors, torch.tensor([[float(sign), 0.0]]))


def test_what_all_differences_share_is_a_component_too():
    direction = find_direction(states([5, 1], [5, -1]), states([0, 0], [0, 0]), "pca")
    torch.testing.assert_close(direction.vectors, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("kind", ["mean", "pca"])
def test_each_layer_has_its_own_direction(kind):
    harmful = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    harmless = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1))
    whole = find_direction(harmful, harmless, kind)
    for layer in range(3):
        alone = find_direction(harmful[:, [layer]], harmless[:, [layer]], kind)
        torch.testing.assert_close(whole.vectors[[layer]], alone.vectors)
        torch.testing.assert_close(whole.norms[[layer]], alone.norms)


@pytest.mark.parametrize("kind", ["mean", "pca"])
def test_sets_that_do_not_differ_have_no_direction(kind):
    with pytest.raises(DirectionError, match="don't differ"):
        find_direction(states([1, 2]), states([1, 2]), kind)


def test_pairs_need_as_many_of_both():
    with pytest.raises(DirectionError, match="2 harmful and 1 harmless"):
        find_direction(states([1, 2], [3, 4]), states([0, 0]), "pca")
