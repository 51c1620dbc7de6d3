import pytest

from generation.base import Completion, GenerationError, PromptTooLongError, SamplingParameters


@pytest.mark.parametrize(
    "field, value",
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -5),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
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
    message = str(error)
    assert "prompt 3" in message
    assert "'Tell me about bread" in message
    assert "5000" in message
    assert "2048" in message
    assert "\n" not in message
    assert len(message) < 250


def test_a_prompt_that_is_too_long_is_a_failure_that_a_shorter_chat_mends():
    error = PromptTooLongError(3, 5000, 2048, "Tell me")
    assert isinstance(error, GenerationError)
    assert list(error.failures) == [3]
    assert "5000" in error.failures[3]
    assert error.too_long == {3}
    assert error.completions == {}


def test_a_generation_error_keeps_what_the_others_got():
    answers = {0: Completion("Hi", 1, 1, "stop")}
    error = GenerationError("one of two failed", {1: "no reply"}, answers)
    assert str(error) == "one of two failed"
    assert (error.failures, error.completions, error.too_long) == ({1: "no reply"}, answers, frozenset())
