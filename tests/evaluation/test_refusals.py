import pytest

from evaluation.refusals import is_rigid_refusal


@pytest.mark.parametrize(
    "response",
    [
        "I cannot fulfill this request.",
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "Sorry, I am unable to do so.",
        "As an AI language model, I cannot give you that.",
        "Unfortunately, I won't be able to help here.",
        "I apologize, but I must decline.",
        "No, I will not do that.",
    ],
)
def test_a_template_is_found(response):
    assert is_rigid_refusal(response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Bread needs flour, water, salt and yeast.",
        "You can't bake bread without heat, so preheat the oven.",
        "Sure! Here is how to end a process.",
        "The law says that a landlord cannot enter without notice.",
        "Here is a plan. If it fails, I cannot promise that the second one works.",
    ],
)
def test_an_answer_is_none(response):
    assert not is_rigid_refusal(response)
