import pytest
import torch

from errors import UserError
from evaluation.methods.repe import RepE, steering
from evaluation.methods.vanilla import Vanilla
from generation.base import SamplingParameters
from generation.cache import CachedEngine
from generation.transformers_engine import TransformersEngine

SAMPLING = SamplingParameters(max_new_tokens=8)
HARMFUL, HARMLESS = ["Is that unkind?", "Who is rude?"], ["Is that bread?", "Who bakes?"]
PROMPTS = ["How do I bake bread at home, and how long does it take?", "Hi", "Is it safe to cross the street?"]


@pytest.fixture(scope="module")
def backbone(roomy_chat_model):
    return TransformersEngine(str(roomy_chat_model), device="cpu", batch_size=2)


@pytest.fixture
def repe(backbone, tmp_path):
    def build(backbone=backbone, **options):
        return RepE(backbone, SAMPLING, HARMFUL, HARMLESS, tmp_path, **options)

    return build


def responses(method, prompts=PROMPTS):
    return [answer.response for _, answer in method.answer(prompts)]


def logits(backbone, text="Hi there"):
    with torch.inference_mode():
        return backbone.model(**backbone.tokenizer(text, return_tensors="pt")).logits


def test_the_direction_changes_the_answers_at_a_large_coefficient(repe, backbone):
    assert responses(repe(coefficient=5.0)) != responses(Vanilla(backbone, SAMPLING))


def test_without_strength_nothing_changes(repe, backbone):
    assert responses(repe(coefficient=0.0)) == responses(Vanilla(backbone, SAMPLING))


def test_a_batch_gives_each_prompt_what_it_gets_alone(repe):
    method = repe(coefficient=1.0)
    assert responses(method) == [responses(method, [prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize("direction", ["mean", "pca"])
def test_what_is_added_is_the_unit_direction_by_the_coefficient_and_the_layer_s_norm(repe, backbone, direction):
    seen = []
    method = repe(coefficient=0.5, direction=direction, layers=[0])
    watch = backbone.model.model.layers[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with watch:
        responses(method, ["Hi"])
        steered = seen[2]  # after the passes that found the direction, over harmful and harmless prompts
        responses(Vanilla(backbone, SAMPLING), ["Hi"])
    plain = next(states for states in seen[3:] if states.shape[1] > 1)
    expected = (0.5 * method.refusal.norms[0] * method.refusal.vectors[0]).expand_as(plain)
    torch.testing.assert_close(steered - plain, expected, rtol=1e-4, atol=1e-4)


def test_the_model_is_left_as_it_was(repe, backbone):
    before = logits(backbone)
    answers = repe(coefficient=5.0).answer(PROMPTS)
    next(answers)
    assert torch.equal(logits(backbone), before)  # between two batches, too
    list(answers)
    assert torch.equal(logits(backbone), before)


def test_the_model_is_left_as_it_was_after_an_error(repe, backbone, monkeypatch):
    before = logits(backbone)
    method = repe(coefficient=5.0)
    assert method.refusal.vectors.shape == (2, 32)

    def interrupted(**inputs):
        assert not torch.equal(logits(backbone), before)
        raise KeyboardInterrupt

    monkeypatch.setattr(backbone.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        responses(method)
    assert torch.equal(logits(backbone), before)


def test_a_layer_that_cannot_be_steered_leaves_the_others_as_they_were(backbone):
    before = logits(backbone)
    with pytest.raises(AttributeError), steering([(backbone.model.model.layers[0], torch.ones(32)), (None, None)]):
        pass
    assert torch.equal(logits(backbone), before)


@pytest.mark.parametrize("count, middle", [(1, [0]), (2, [0, 1]), (3, [1]), (12, [4, 5, 6, 7])])
def test_the_middle_third_of_the_layers_is_the_default(repe, monkeypatch, count, middle):
    monkeypatch.setattr("evaluation.methods.repe.decoder_layers", lambda engine: [None] * count)
    assert list(repe().chosen_layers) == middle


def test_a_prompt_s_failure_is_its_own(tiny_chat_model, repe):
    method = repe(TransformersEngine(str(tiny_chat_model), device="cpu"))
    answers = dict(method.answer(["Hi", "word " * 99, " "]))
    assert answers[0].response is not None
    assert answers[0].calls == method.most_calls
    assert "shorten it" in answers[1].error
    assert answers[2].error == "the prompt is blank"


def test_an_engine_that_cannot_be_steered_is_refused(scripted_engine, repe, backbone, tmp_path):
    with pytest.raises(UserError, match="transformers engine .* scripted"):
        repe(scripted_engine())
    with pytest.raises(UserError, match="CachedEngine"):
        repe(CachedEngine(backbone, tmp_path / "completions"))


@pytest.mark.parametrize(
    "options",
    [{"layers": []}, {"layers": [2]}, {"layers": [-1]}, {"direction": "median"}, {"coefficient": float("nan")}],
)
def test_a_setting_out_of_bounds_is_named(repe, options):
    (name,) = options
    with pytest.raises(UserError, match=name):
        repe(**options)
