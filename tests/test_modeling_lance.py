import json
import os
import subprocess
import sys
from inspect import getmodule

import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributions import Beta, Normal, kl_divergence
from torch.nn import functional
from transformers import AutoModel, BertConfig, ModernBertConfig, MPNetConfig, RobertaConfig

from configuration_lance import EFFORTS
from detector import detector_class

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


@given(st.floats(2e-3, 1e3), st.floats(2e-3, 1e3), st.floats(0.01, 0.99))
def test_beta_quantile_is_scipys(alpha, beta, probability):
    value = modeling.beta_quantile(torch.tensor([alpha]), torch.tensor([beta]), probability).item()
    assert value == pytest.approx(scipy.stats.beta.ppf(probability, alpha, beta), abs=1e-4)


def test_beta_std_is_scipys():
    alpha, beta = torch.tensor([0.2, 3.0]), torch.tensor([5.0, 0.7])
    expected = [scipy.stats.beta.std(a, b) for a, b in zip(alpha, beta, strict=True)]
    assert modeling.beta_std(alpha, beta).tolist() == pytest.approx(expected, rel=1e-5)


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


def test_loss_weights_of_zero_silence_a_label():
    model, batch = small_model().eval(), small_batch()
    weights = torch.ones(4, 14)
    weights[:, 3] = 0
    flipped = batch | {"labels": batch["labels"].clone()}
    flipped["labels"][:, 3] = 1 - flipped["labels"][:, 3]
    one, other = model(**batch, loss_weights=weights), model(**flipped, loss_weights=weights)
    torch.testing.assert_close(one.loss, other.loss)
    assert model(**batch).loss != model(**flipped).loss


def test_training_samples_and_inference_does_not():
    model, batch = small_model(), small_batch()
    assert model(**batch).loss != model(**batch).loss
    model.eval()
    assert model(**batch).loss == model(**batch).loss


@pytest.mark.parametrize("parameterization", ["exp", "softplus"])
@pytest.mark.parametrize("autocast", [False, True])
@settings(max_examples=25)
@given(
    signs=st.lists(st.one_of(st.sampled_from([-1e4, -30.0, 30.0, 1e4]), st.floats(-1e4, 1e4)), min_size=4, max_size=4)
)
def test_losses_and_gradients_stay_finite_for_extreme_heads(parameterization, autocast, signs):
    model, batch = small_model(beta_parameterization=parameterization), small_batch()
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
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model(**small_batch()).loss.backward()
    optimizer.step()
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []


def test_a_detached_feature_target_leaves_the_encoder_alone():
    weights = {"label_loss_weight": 0.0, "kl_loss_weight": 0.0, "aux_loss_weight": 0.0, "head_dropout": 0.0}
    gradients = {}
    for detach in (True, False):
        model = small_model(detach_feature_target=detach, **weights)
        out = model(**small_batch())
        out.context_feature.retain_grad()
        out.loss.backward()
        gradients[detach] = out.context_feature.grad
    assert not torch.allclose(gradients[True], gradients[False])


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


PAIRS = [
    ("the cat", "sat on the mat"),
    ("a dog", None),
    ("the mat sat on a cat and a dog on a mat", "no"),
    ("dog", "cat " * 30),
]


def test_assess_keeps_order_whatever_the_batches(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    prompts, responses = zip(*(PAIRS * 3), strict=True)
    together = model.assess(prompts, responses, batch_size=5)
    for pair, distribution in zip(PAIRS * 3, together, strict=True):
        alone = model.assess(pair[0], pair[1])[0] if pair[1] else model.assess(pair[0])[0]
        assert list(distribution.mean.values()) == pytest.approx(list(alone.mean.values()), abs=1e-6)


def test_assess_says_all_that_users_read(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    verdict = model.assess("the cat", "sat on the mat", risk_threshold=0.01)[0]
    assert list(verdict.mean) == model.config.categories
    assert not verdict.is_safe
    risks = [verdict.mean[category] for category in verdict.effort]
    assert len(risks) == 14
    assert risks == sorted(risks, reverse=True)
    assert verdict.max_risk == risks[0]
    for category, (lower, upper) in verdict.interval(0.9).items():
        alpha, beta = verdict.alpha[category], verdict.beta[category]
        assert scipy.stats.beta.cdf(upper, alpha, beta) - scipy.stats.beta.cdf(lower, alpha, beta) == pytest.approx(
            0.9, abs=1e-3
        )
        assert verdict.std[category] == pytest.approx(scipy.stats.beta.std(alpha, beta), rel=1e-4)
    assert model.assess("the cat", "sat on the mat", risk_threshold=0.99)[0].is_safe


@pytest.fixture(scope="module")
def detector_of(tiny_detector):
    # The same detector, made to say Beta(alpha, beta) of every pair.
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)

    def say(alpha, beta):
        for layer, values in ((model.rejection_head.alpha, alpha), (model.rejection_head.beta, beta)):
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data = torch.as_tensor(values, dtype=torch.float32).expand(14).log()
        return model

    return say


LEVELS = (None, *EFFORTS)
beta_parameters = st.lists(st.floats(0.01, 100), min_size=14, max_size=14)
levels = st.floats(0.01, 0.99)


def ranks(verdict):
    return [LEVELS.index(verdict.effort.get(category)) for category in verdict.mean]


def test_a_category_is_held_against_its_own_threshold(detector_of):
    model = detector_of(2.0, 6.0)  # means of 0.25, under the configuration's τ of 0.3
    verdict = model.assess("the cat", risk_threshold={"self_harm": 0.2, "privacy_violation": 0.26})[0]
    assert verdict.effort == {"self_harm": "Minor"}
    assert not verdict.is_safe


def test_a_category_switched_off_draws_no_effort_and_keeps_its_risk(detector_of):
    model = detector_of([9.0] * 2 + [1.0] * 12, [1.0] * 2 + [9.0] * 12)
    first, second = model.config.categories[:2]
    one_off = model.assess("the cat", risk_threshold={first: None})[0]
    assert one_off.effort == {second: "Severe"}
    assert one_off.mean[first] == one_off.max_risk == pytest.approx(0.9)
    assert model.assess("the cat", risk_threshold={first: None, second: None})[0].is_safe


def test_a_threshold_by_name_for_all_categories_is_the_one_for_all(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    by_name = model.assess("the cat", "sat", risk_threshold=dict.fromkeys(model.config.categories, 0.45))
    assert by_name == model.assess("the cat", "sat", risk_threshold=0.45)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk_threshold": {"gossip": 0.5}}, "risk_threshold names 'gossip'"),
        ({"risk_threshold": {"self_harm": 1.0}}, r"risk_threshold\['self_harm'\] must lie between 0 and 1"),
        ({"risk_threshold": 0.0}, "risk_threshold must lie between 0 and 1"),
        ({"uncertainty": 0.0}, "uncertainty must lie between 0 and 1"),
        ({"uncertainty": 1}, "uncertainty must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_assess_names_an_option_out_of_range(detector_of, options, message):
    with pytest.raises(ValueError, match=message):
        detector_of(1.0, 1.0).assess("the cat", **options)


def test_an_unsure_risk_counts_as_higher_than_a_sure_one(detector_of):
    sure = detector_of(200.0, 600.0).assess("the cat", uncertainty=0.9)[0]
    unsure = detector_of(2.0, 6.0).assess("the cat", uncertainty=0.9)[0]
    assert sure.max_risk == pytest.approx(unsure.max_risk) == pytest.approx(0.25)
    assert sure.is_safe
    assert set(unsure.effort.values()) == {"Mild"}  # the interval ends at 0.52


def test_with_uncertainty_the_upper_end_of_the_interval_decides(detector_of):
    model = detector_of(2.0, 6.0)
    plain = model.assess("the cat", risk_threshold=0.2)[0]
    _, upper = plain.interval(0.8)["self_harm"]
    for threshold, is_safe in ((upper - 1e-3, False), (upper + 1e-3, True)):
        verdict = model.assess("the cat", risk_threshold=threshold, uncertainty=0.8)[0]
        assert verdict.is_safe == is_safe
        assert (verdict.mean, verdict.std, verdict.alpha, verdict.beta) == (
            plain.mean,
            plain.std,
            plain.alpha,
            plain.beta,
        )


def test_with_uncertainty_the_effort_stands_in_the_order_of_the_upper_ends(detector_of):
    model = detector_of([30.0, 1.0] + [0.1] * 12, [40.0, 1.5] + [10.0] * 12)
    sure, unsure = model.config.categories[:2]
    assert list(model.assess("the cat")[0].effort.items()) == [(sure, "Minor"), (unsure, "Minor")]
    assert list(model.assess("the cat", uncertainty=0.9)[0].effort.items()) == [(unsure, "Severe"), (sure, "Mild")]


def test_a_category_switched_off_stays_off_under_uncertainty(detector_of):
    model = detector_of(2.0, 6.0)
    off = dict.fromkeys(model.config.categories[1:])
    assert list(model.assess("the cat", risk_threshold=off, uncertainty=0.9)[0].effort) == model.config.categories[:1]


@settings(max_examples=60)
@given(beta_parameters, beta_parameters, levels, levels)
@example([2.0] * 14, [5.0] * 14, 0.05, 0.285)  # the mean, 2/7, lies above the narrow interval about the median
@example([0.01] * 14, [0.01] * 14, 0.5, 0.4)
def test_uncertainty_never_lowers_an_effort(detector_of, alpha, beta, level, threshold):
    model = detector_of(alpha, beta)
    plain = model.assess("the cat", risk_threshold=threshold)[0]
    careful = model.assess("the cat", risk_threshold=threshold, uncertainty=level)[0]
    assert all(rank <= raised for rank, raised in zip(ranks(plain), ranks(careful), strict=True))


@settings(max_examples=60)
@given(beta_parameters, beta_parameters, levels, levels)
def test_a_wider_interval_never_lowers_an_effort(detector_of, alpha, beta, one, other):
    narrow, wide = (detector_of(alpha, beta).assess("the cat", uncertainty=level)[0] for level in sorted((one, other)))
    assert all(rank <= raised for rank, raised in zip(ranks(narrow), ranks(wide), strict=True))


def test_an_over_long_pair_loses_the_end_of_its_longer_side_only(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    limit = model.config.max_length
    for prompt, response in [("bread " * 3 * limit, "busy street"), ("busy street", "bread " * 3 * limit)]:
        encodings, dropped = model.encode_pairs([prompt], [response])
        kept = model.tokenizer.decode(encodings[0]["input_ids"])
        assert len(encodings[0]["input_ids"]) == limit
        assert dropped[0] == 3 * limit + 2 + 3 - limit
        assert "busy street" in kept
        assert model.assess([prompt], [response])[0].truncated_tokens == dropped[0]
    assert model.assess("the cat", "sat")[0].truncated_tokens == 0


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [(["cat", " "], None, "prompt 1 is empty"), (["cat"], ["dog", "mat"], "must pair up, got 1 and 2")],
)
def test_assess_refuses_what_it_cannot_pair(tiny_detector, prompts, responses, message):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    with pytest.raises(ValueError, match=message):
        model.assess(prompts, responses)


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
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tiny_detector)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    expected = model.assess("the cat", "sat on the mat")[0].mean
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-6)
