import pytest

from generation.base import PromptTooLongError, SamplingParameters


@pytest.mark.parametrize(
    "field, value",
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -5),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("top_p", float("nan")),
    ],
)
def test_a_sampling_parameter_out_of_bounds_is_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must .*got {value}\.$"):
        SamplingParameters(**{field: value})


@pytest.mark.parametrize("field, value", [("max_new_tokens", 1), ("temperature", 0.0), ("top_p", 1.0), ("top_p", 1e-6)])
def test_a_sampling_parameter_on_its_bound_is_taken(field, value):
    assert getattr(SamplingParameters(**{field: value}), field) == value


def test_a_prompt_that_is_too_long_is_named_by_its_place_and_its_beginning():
    error = PromptTooLongError(3, 5000, 2048, "Tell me\n  about " + "bread " * 100)
    assert error.index == 3
    message = str(error)
    assert "prompt 3" in message
    assert "'Tell me about bread" in message
    assert "5000" in message
    assert "2048" in message
    assert "\n" not in message
    assert len(message) < 250
