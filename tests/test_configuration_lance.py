import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import detector_class

LanceConfig = detector_class().config_class


def test_defaults_are_the_papers_taxonomy_on_roberta():
    config = LanceConfig()
    assert config.encoder_config.model_type == "roberta"
    assert len(config.categories) == config.num_labels == 14
    assert config.categories[0] == "animal_abuse"


def test_a_configuration_survives_json():
    config = LanceConfig(encoder_config={"model_type": "bert", "hidden_size": 48}, latent_size=8, kl_loss_weight=0.5)
    again = LanceConfig(**json.loads(config.to_json_string(use_diff=False)))
    assert again.encoder_config.hidden_size == 48
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of 'mean', 'cls'"),
        ({"beta_parameterization": "relu"}, "beta_parameterization must be one of 'exp', 'softplus'"),
        ({"latent_size": 0}, "latent_size must be a positive integer"),
        ({"max_length": 1.5}, "max_length"),
        ({"window_length": 8}, "window_length"),
        ({"kl_loss_weight": -1.0}, "kl_loss_weight must be a finite number of at least 0"),
        ({"aux_loss_weight": float("nan")}, "aux_loss_weight"),
        ({"risk_threshold": 1.0}, "risk_threshold must lie between 0 and 1"),
        ({"mild_threshold": 0.8}, "mild_threshold .* must not exceed severe_threshold"),
        ({"category_thresholds": [0.5]}, "category_thresholds must hold one for each of the 14 categories, got 1"),
        ({"category_thresholds": [0.5] * 13 + [1.0]}, "category_thresholds must lie between 0 and 1"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"concentration_floor": 0.0}, "concentration_floor"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label"),
        ({"id2label": {0: "a", 1: "a"}}, "id2label"),
        ({"encoder_config": {"model_type": "no-such"}}, "encoder_config"),
    ],
)
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        LanceConfig(**fields)


@pytest.mark.parametrize(
    ("risk", "effort"),
    [(0.3, None), (0.31, "Minor"), (0.5, "Minor"), (0.51, "Mild"), (0.7, "Mild"), (0.71, "Severe")],
)
def test_effort_follows_equation_1(risk, effort):
    assert LanceConfig().effort(risk) == effort


def test_a_threshold_of_the_callers_own_wins():
    config = LanceConfig()
    assert config.effort(0.25, risk_threshold=0.2) == "Minor"
    assert config.effort(0.6, risk_threshold=0.65) is None


@pytest.mark.parametrize(("given_threshold", "everywhere"), [(None, 0.4), (0.2, 0.2), ({}, 0.4)])
def test_one_threshold_stands_for_every_category(given_threshold, everywhere):
    config = LanceConfig(risk_threshold=0.4)
    assert config.thresholds(given_threshold) == dict.fromkeys(config.categories, everywhere)


def test_thresholds_by_name_leave_the_other_categories_theirs():
    config = LanceConfig(id2label={0: "theft", 1: "violence", 2: "gossip"}, risk_threshold=0.4)
    own = {"gossip": None, "theft": 0.2}
    assert config.thresholds(own) == {"theft": 0.2, "violence": 0.4, "gossip": None}
    assert own == {"gossip": None, "theft": 0.2}
    assert list(config.thresholds(own)) == config.categories


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), True, "0.3"])
def test_a_threshold_out_of_range_is_named_with_its_category(value):
    with pytest.raises(ValueError, match=r"^risk_threshold must lie between 0 and 1"):
        LanceConfig().thresholds(value)
    with pytest.raises(ValueError, match=r"^risk_threshold\['self_harm'\] must lie between 0 and 1"):
        LanceConfig().thresholds({"animal_abuse": 0.5, "self_harm": value})


@pytest.mark.parametrize("value", [0.5, None])
def test_an_unknown_category_is_named_beside_the_known_ones(value):
    with pytest.raises(ValueError, match="risk_threshold names 'gossip': use one of animal_abuse, .*self_harm"):
        LanceConfig().thresholds({"gossip": value})


@given(st.floats(0, 1), st.floats(0, 1))
def test_effort_never_falls_as_risk_grows(one, other):
    levels = [None, "Minor", "Mild", "Severe"]
    low, high = sorted((one, other))
    assert levels.index(LanceConfig().effort(low)) <= levels.index(LanceConfig().effort(high))
