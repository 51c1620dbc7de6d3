import pytest

from generation.base import Completion, GenerationError
from generation.reasoning import opens_thought, without_thought, without_thoughts


@pytest.mark.parametrize(
    "text, opened, answer",
    [
        ("Bread.", False, "Bread."),
        ("", False, ""),
        ("<think>\nHm.\n</think>\n\nBread.", False, "Bread."),
        ("\n<think></think>Bread.", False, "Bread."),
        ("<think>Hm.</think>", False, ""),
        ("<think>Hm.</think>It closes with </think>.", False, "It closes with </think>."),
        ("Hm.</think>Bread.", True, "Bread."),
        ("Hm.</think>Bread.", False, "Bread."),  # a server whose template opened the thought
        ("<think>\nHm", False, None),
        ("Hm", True, None),
        ("Write <think> and </think> around it.", False, "Write <think> and </think> around it."),
    ],
)
def test_the_answer_is_what_stands_behind_the_thought(text, opened, answer):
    assert without_thought(text, opened) == answer


@pytest.mark.parametrize("question, opens", [("<|Assistant|><think>\n", True), ("<think>\n\n</think>\n\n", False)])
def test_a_template_opens_a_thought_where_the_question_ends_in_one(question, opens):
    assert opens_thought(question) == opens


def test_a_chat_without_an_answer_is_named_and_the_others_keep_theirs():
    completions = [
        Completion("<think>Hm.</think>Bread.", 5, 9, "stop"),
        Completion("<think>Hm", 5, 4, "length"),
        Completion("Yes.", 5, 2, "stop"),
    ]
    with pytest.raises(GenerationError, match=r"1 of 3 chats .* 4 tokens ended") as raised:
        without_thoughts(completions, opened=False)
    assert raised.value.completions == {0: Completion("Bread.", 5, 9, "stop"), 2: completions[2]}
    assert raised.value.failures.keys() == {1}
    assert not raised.value.too_long
    assert without_thoughts(completions[::2], opened=False) == [raised.value.completions[0], completions[2]]
