from inspect import getmodule

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Beta, Normal, kl_divergence
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
)

from detector import detector_class
from tests.out_of_sight import run_out_of_sight

Lance = detector_class()
LanceConfig = Lance.config_class
modeling = getmodule(Lance)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 99}
ENCODERS = [BertConfig, RobertaConfig, MPNetConfig, ModernBertConfig]


def small_config(encoder=BertConfig, **fields):
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return LanceConfig(encoder_config=encoder(**SMALL, **tokens), latent_size=8, **fields)


def small_model(encoder=BertConfig, **fields):
    torch.manual_seed(0)
    return Lance(small_config(encoder, **fields))


def small_batch(rows=4, length=12):
    torch.manual_seed(1)
    return {
        "input_ids": torch.randint(3, 99, (rows, length)),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "labels": (torch.rand(rows, 14) > 0.7).float(),
    }


concentrations = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=14)


@given(concentrations, concentrations)
def test_beta_kl_is_torchs(alpha, beta):
    size = min(len(alpha), len(beta))
    alpha, beta = torch.tensor([alpha[:size]]), torch.tensor([beta[:size]])
    uniform = Beta(torch.ones_like(alpha), torch.ones_like(beta))
    expected = kl_divergence(Beta(alpha.double(), beta.double()), uniform).sum(-1)
    torch.testing.assert_close(modeling.beta_kl(alpha.double(), beta.double()), expected.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(modeling.beta_kl(alpha, beta), expected.float(), rtol=1e-4, atol=1e-2)


def test_beta_kl_by_hand():
    # KL(Beta(2, 1) || Beta(1, 1)) = E[ln 2d] = ln 2 + E[ln d] = ln 2 - 1/2.
    value = modeling.beta_kl(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    torch.testing.assert_close(value, torch.tensor([0.6931472 - 0.5]), rtol=0, atol=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.lists(st.floats(0.01, 5), min_size=3, max_size=3))
def test_gaussian_kl_is_torchs(mean, std):
    mean, std = torch.tensor([mean]), torch.tensor([std])
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(modeling.gaussian_kl(mean, std), expected, rtol=1e-5, atol=1e-5)


def test_losses_are_the_formulas_and_add_up_to_equation_16():
    weights = {"feature_loss_weight": 0.3, "label_loss_weight": 0.7, "kl_loss_weight": 0.05, "aux_loss_weight": 1.1}
    model = small_model(**weights).eval()
    batch = small_batch()
    out = model(**batch)
    labels = batch["labels"]
    torch.testing.assert_close(out.risk, Beta(out.alpha, out.beta).mean)
    torch.testing.assert_close(out.aux_loss, functional.binary_cross_entropy(out.risk, labels))
    torch.testing.assert_close(out.label_loss, functional.binary_cross_entropy(out.label_probabilities, labels))
    kl_z = kl_divergence(Normal(out.semantic_mean, out.semantic_std), Normal(0.0, 1.0)).sum(-1)
    kl_d = kl_divergence(Beta(out.alpha, out.beta), Beta(torch.tensor(1.0), torch.tensor(1.0))).sum(-1)
    torch.testing.assert_close(out.kl_loss, (kl_z + kl_d).mean(), rtol=1e-5, atol=1e-5)
    decoded = model.feature_decoder(torch.cat([out.semantic_mean, out.risk], dim=-1))
    torch.testing.assert_close(out.feature_loss, functional.mse_loss(decoded, out.context_feature))
    total = 0.3 * out.feature_loss + 0.7 * out.label_loss + 0.05 * out.kl_loss + 1.1 * out.aux_loss
    torch.testing.assert_close(out.loss, total)


def test_the_loss_comes_first_where_there_is_one():
    model, batch = small_model(), small_batch()
    out = model(**batch)
    assert out[0] is out.to_tuple()[0] is out.loss
    del batch["labels"]
    out = model(**batch)
    assert out[0] is out.risk


def test_loss_weights_of_zero_silence_a_label():
    model, batch = small_model().eval(), small_batch()
    weights = torch.ones(4, 14)
    weights[:, 3] = 0
    flipped = batch | {"labels": batch["labels"].clone()}
    flipped["labels"][:, 3] = 1 - flipped["labels"][:, 3]
    one, other = model(**batch, loss_weights=weights), model(**flipped, loss_weights=weights)
    torch.testing.assert_close(one.loss, other.loss)
    assert model(**batch).loss != model(**flipped).loss


def without_dropout(**fields):
    model = small_model(**fields)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_training_samples_z_and_d_and_inference_does_not():
    batch = small_batch()
    sampled, z_alone = without_dropout(), without_dropout(rejection_estimate="mean")
    assert sampled(**batch).aux_loss != sampled(**batch).aux_loss
    assert z_alone(**batch).feature_loss != z_alone(**batch).feature_loss
    model = small_model().eval()
    assert model(**batch).loss == model(**batch).loss


@given(st.floats(0.5, 20), st.floats(0.5, 20), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=20)
def test_the_expected_cross_entropy_is_the_mean_over_draws(alpha, beta, label):
    alpha, beta = (torch.tensor(value, dtype=torch.float64) for value in (alpha, beta))
    draws = Beta(alpha, beta).sample((200_000,)).clamp(1e-300, 1 - 1e-16)
    losses = functional.binary_cross_entropy(draws, torch.full_like(draws, label), reduction="none")
    expected = modeling.expected_cross_entropy(alpha, beta, torch.tensor(label))
    error = losses.std().item() / len(losses) ** 0.5
    assert losses.mean().item() == pytest.approx(expected.item(), abs=6 * error + 1e-3)


def test_the_expectation_has_no_noise_of_the_draw_and_the_mean_estimate_none_at_all():
    batch = small_batch()
    for estimate, terms in (("expectation", ["aux_loss"]), ("mean", ["aux_loss", "label_loss"])):
        model = without_dropout(rejection_estimate=estimate)
        one, other = model(**batch), model(**batch)
        for term in ("aux_loss", "label_loss"):
            assert torch.equal(one[term], other[term]) is (term in terms), (estimate, term)


@pytest.mark.parametrize("parameterization", ["exp", "softplus"])
@pytest.mark.parametrize("estimate", ["sample", "expectation", "mean"])
@pytest.mark.parametrize("autocast", [False, True])
@settings(max_examples=25)
@given(
    signs=st.lists(st.one_of(st.sampled_from([-1e4, -30.0, 30.0, 1e4]), st.floats(-1e4, 1e4)), min_size=4, max_size=4)
)
def test_losses_and_gradients_stay_finite_for_extreme_heads(parameterization, estimate, autocast, signs):
    model = small_model(beta_parameterization=parameterization, rejection_estimate=estimate)
    batch = small_batch()
    heads = (model.rejection_head.alpha, model.rejection_head.beta, model.semantic_head.mean, model.semantic_head.std)
    for layer, value in zip(heads, signs, strict=True):
        torch.nn.init.constant_(layer.bias, value)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = model(**batch)
    out.loss.backward()
    for term in ("loss", "label_loss", "aux_loss", "feature_loss", "kl_loss"):
        assert out[term].isfinite(), term
        assert out[term].dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_exp_makes_the_mean_a_sigmoid_of_one_linear_map():
    model, batch = small_model(beta_parameterization="exp").eval(), small_batch()
    out = model(**batch)
    head = model.rejection_head
    logit = head.alpha(out.context_feature) - head.beta(out.context_feature)
    torch.testing.assert_close(out.risk, logit.sigmoid())


def test_calibration_maps_every_logit():
    model, batch = small_model().eval(), small_batch()
    before = model(**batch).risk.logit()
    model.rejection_head.calibrate(scale=1.5, shift=0.4)
    torch.testing.assert_close(model(**batch).risk.logit(), 1.5 * before + 0.4)
    with pytest.raises(ValueError, match="scale must be positive"):
        model.rejection_head.calibrate(-1.0, 0.0)
    with pytest.raises(ValueError, match="only beta_parameterization='exp'"):
        small_model(beta_parameterization="softplus").rejection_head.calibrate(1.0, 0.0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_learns(encoder):
    model = small_model(encoder)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)  # decay would move what no gradient does
    model(**small_batch()).loss.backward()
    optimizer.step()
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []


@pytest.mark.parametrize("detached", [True, False])
def test_the_feature_loss_pulls_at_its_target_unless_that_is_detached(detached):
    weights = {"label_loss_weight": 0.0, "kl_loss_weight": 0.0, "aux_loss_weight": 0.0, "feature_loss_weight": 1.0}
    model = small_model(detach_feature_target=detached, **weights).eval()
    out = model(**small_batch())
    feature = out.context_feature
    (gradient,) = torch.autograd.grad(out.loss, feature, retain_graph=True)
    decoded = model.feature_decoder(torch.cat([out.semantic_mean, out.risk], dim=-1))
    (through_decoder,) = torch.autograd.grad(functional.mse_loss(decoded, feature.detach()), feature, retain_graph=True)
    at_target = 2 * (feature - decoded) / feature.numel()
    torch.testing.assert_close(gradient, through_decoder if detached else through_decoder + at_target)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_no_score(pooling):
    model, batch = small_model(pooling=pooling).eval(), small_batch()
    padded_ids = functional.pad(batch["input_ids"], (0, 5))
    padded_mask = functional.pad(batch["attention_mask"], (0, 5))
    torch.testing.assert_close(
        model(batch["input_ids"], batch["attention_mask"]).risk, model(padded_ids, padded_mask).risk, rtol=0, atol=1e-6
    )


def test_heads_stay_in_float32_in_a_bfloat16_model(tmp_path):
    small_model().save_pretrained(tmp_path)
    model = Lance.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.encoder.dtype == torch.bfloat16
    assert model.rejection_head.alpha.weight.dtype == torch.float32
    assert model(**small_batch()).risk.dtype == torch.float32


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16])
def test_heads_stay_in_float32_when_a_loaded_model_is_cast(cast):
    model = small_model().eval()
    heads = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    whole = model(**small_batch()).risk
    model.to(cast)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in heads.items())
    assert {parameter.dtype for parameter in model.encoder.parameters()} == {cast}
    torch.testing.assert_close(model(**small_batch()).risk, whole, rtol=0, atol=2e-2)


def test_a_model_saved_without_a_tokenizer_says_so_where_it_has_to_read(tmp_path):
    small_model().save_pretrained(tmp_path / "first")
    model = Lance.from_pretrained(tmp_path / "first")
    with pytest.raises(OSError, match="tokenizer.json"):
        model.assess("the cat")
    model.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").exists()


def test_a_save_that_would_upload_without_the_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"call the model's push_to_hub\(\)"):
        small_model().save_pretrained(tmp_path / "saved", push_to_hub=True)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(("kind", "most"), [(BertConfig, 130), (RobertaConfig, 128)])  # RoBERTa's numbers start at 2
def test_max_length_is_at_most_the_positions_that_the_encoder_has(tiny_encoder, tmp_path, kind, most):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.save_pretrained(tmp_path)
    AutoModel.from_config(kind(**SMALL, pad_token_id=1, max_position_embeddings=130)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"max_length must be at most {most}"):
        Lance.from_encoder(tmp_path, max_length=most + 1)
    model = Lance.from_encoder(tmp_path, max_length=most)
    longest = torch.full((1, most), 5)
    assert model(longest, torch.ones_like(longest)).risk.shape == (1, 14)


def test_an_encoder_without_a_number_of_positions_is_refused(tiny_encoder, tmp_path):
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 99}
    AutoModel.from_config(T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its configuration states no max_position_embeddings"):
        Lance.from_encoder(tmp_path)


def test_the_tokenizer_goes_where_the_model_is_saved_and_comes_with_its_revision(tiny_detector, tmp_path):
    # A Hub's cache as it lies on disk: what is asked of the model has to hold for its tokenizer too.
    repository = tmp_path / "cache" / "models--org--lance"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text("0" * 40)
    model = Lance.from_pretrained(tiny_detector)
    model.save_pretrained(repository / "snapshots" / ("0" * 40))
    hub_options = {"cache_dir": tmp_path / "cache", "revision": "v1", "local_files_only": True}
    of_revision = Lance.from_pretrained("org/lance", **hub_options)
    assert of_revision.assess("the cat")[0].mean == pytest.approx(model.assess("the cat")[0].mean)


def test_assess_leaves_training_mode_as_it_was(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True).train()
    model.assess("the cat")
    assert model.training


def test_a_saved_folder_gives_the_same_scores_where_the_repository_is_out_of_sight(tiny_detector, tmp_path):
    script = """
import json, sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model.assess("the cat", "sat on the mat")[0].mean))
"""
    scores = run_out_of_sight(script, tiny_detector, cwd=tmp_path)
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    expected = model.assess("the cat", "sat on the mat")[0].mean
    assert scores == pytest.approx(expected, abs=1e-6)
