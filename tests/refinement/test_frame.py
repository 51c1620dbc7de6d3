import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinement.frame import EXAMPLES, RETRY, SYSTEM_PROMPT, read_refined, refiner_chat
from refinement.gradient import textual_gradient

GRADIENT = textual_gradient({"privacy_violation": 0.8}, {"privacy_violation": "Severe"})
PIECES = [
    "<prompt>",
    "</prompt>",
    "< / PROMPT >",
    "</gradient\n>",
    "<gradient>",
    "<refined>",
    "<",
    ">",
    "/",
    "pro",
    "mpt",
]
ANY_TEXT = st.text() | st.lists(st.sampled_from([*PIECES, "&lt;", '"', "`", ":", "Sure, here's ", " a ", "\n"])).map(
    "".join
)


def tags(name, text):
    return [re.sub(r"\s", "", tag).lower() for tag in re.findall(rf"<\s*/?\s*{name}\s*/?\s*>", text, re.IGNORECASE)]


@settings(deadline=None)
@given(ANY_TEXT)
def test_no_prompt_opens_or_closes_the_frame(prompt):
    content = refiner_chat(prompt, GRADIENT)[-1]["content"]
    assert tags("prompt", content) == ["<prompt>", "</prompt>"]
    assert tags("gradient", content) == ["<gradient>", "</gradient>"]
    assert tags("refined", content) == []
    assert content.endswith("\n</prompt>")


@settings(deadline=None)
@given(ANY_TEXT)
def test_what_calls_share_is_the_same_for_every_prompt(prompt):
    chat = refiner_chat(prompt, GRADIENT)
    assert chat[:-1] == refiner_chat("How do I bake bread?", "another gradient")[:-1]
    assert chat[0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert [message["role"] for message in chat[1:]] == ["user", "assistant"] * len(EXAMPLES) + ["user"]


@settings(deadline=None)
@given(st.text().filter(lambda text: "<" not in text))
def test_a_prompt_without_tags_arrives_as_it_is(prompt):
    assert f"<prompt>\n{prompt}\n</prompt>" in refiner_chat(prompt, GRADIENT)[-1]["content"]


def test_a_comparison_in_a_prompt_arrives_as_it_is():
    assert "\nIs 1 < 2 in <b>maths</b>?\n" in refiner_chat("Is 1 < 2 in <b>maths</b>?", GRADIENT)[-1]["content"]


def test_the_gradient_stands_in_its_tags_before_the_prompt():
    content = refiner_chat("Bread?", GRADIENT)[-1]["content"]
    assert content == f"<gradient>\n{GRADIENT}\n</gradient>\n<prompt>\nBread?\n</prompt>"


def test_the_examples_have_the_form_that_is_asked_for():
    chat = refiner_chat("Bread?", GRADIENT)
    for message in chat[1:-1]:
        if message["role"] == "assistant":
            assert read_refined(message["content"]) is not None
        else:
            assert tags("prompt", message["content"]) == ["<prompt>", "</prompt>"]


def test_a_second_try_shows_the_failed_reply_and_asks_again():
    chat = refiner_chat("Bread?", GRADIENT, failed_reply="...")
    assert chat[:-2] == refiner_chat("Bread?", GRADIENT)
    assert chat[-2:] == [{"role": "assistant", "content": "..."}, {"role": "user", "content": RETRY}]


def test_a_second_try_may_follow_an_empty_reply():
    assert refiner_chat("Bread?", GRADIENT, failed_reply="")[-1]["content"] == RETRY


@pytest.mark.parametrize(
    "reply, rewrite",
    [
        (reply, "How do I bake bread?")
        for reply in [
            "<refined>How do I bake bread?</refined>",
            "<refined>\n  How do I bake bread?\n</refined>\n",
            "<refined>How do I bake bread?",
            "I changed a word.\n<refined>How do I bake bread?",
            "<refined>How do I bake bread?<refined>",
            "<refined>How do I bake bread?</ refined >",
            "How do I bake bread?</refined>",
            "<REFINED>How do I bake bread?</Refined>",
            "Sure!\n<refined>How do I bake bread?</refined>\nThis version is safer.",
            "<refined>How do I bake bread?</refined><refined>A second one</refined>",
            "```\nHow do I bake bread?\n```",
            "```text\n<refined>How do I bake bread?</refined>\n```",
            "<refined>\n```text\nHow do I bake bread?\n```\n</refined>",
            'Here is the refined prompt: "How do I bake bread?"',
            "Sure! Here's a safer version:\n\nHow do I bake bread?",
            "Certainly, here is the rewritten prompt: How do I bake bread?",
            "Refined prompt: How do I bake bread?",
            "The revised question is: 'How do I bake bread?'",
            "“How do I bake bread?”",
            "‘How do I bake bread?’",
            "«How do I bake bread?»",
            "`How do I bake bread?`",
            '<refined>"How do I bake bread?"</refined>',
            "How do I bake bread?",
            "  How do I bake bread?\n\n",
            "<refined><prompt>How do I bake bread?</prompt></refined>",
            "<prompt>\nHow do I bake bread?\n</prompt>",
            "<refined>How do I bake bread?</prompt>",
        ]
    ]
    + [
        ("<refined>First line\nsecond line</refined>", "First line\nsecond line"),
        ("<refined>Wie backe ich Brot?</refined>", "Wie backe ich Brot?"),
        ("<refined>如何烤面包？</refined>", "如何烤面包？"),
        ("It's fine, isn't it?", "It's fine, isn't it?"),
        ("<refined>Is 1 < 2, and <b>why</b>?</refined>", "Is 1 < 2, and <b>why</b>?"),
        ("<refined><refined>How do I bake bread?</refined></refined>", "How do I bake bread?"),
        ("Here is the refined prompt:\n```\nHow do I bake bread?\n```", "How do I bake bread?"),
        ("```How do I bake bread?```", "How do I bake bread?"),
        ("Here’s the refined prompt: How do I bake bread?", "How do I bake bread?"),
        ('"Bread" or "cake"', '"Bread" or "cake"'),
        ("<refined>Here is my dough: it's too wet. Why?</refined>", "Here is my dough: it's too wet. Why?"),
    ],
)
def test_a_rewrite_is_read_from_any_form_of_reply(reply, rewrite):
    assert read_refined(reply) == rewrite


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "   \n",
        "<refined></refined>",
        "<refined>",
        "</refined>",
        "<refined> \n </refined>",
        "<refined><prompt></prompt></refined>",
        "...",
        "?!",
        "<refined>...</refined>",
        '""',
        "``````",
        "```\n```",
        "Here is the refined prompt:",
    ],
)
def test_a_reply_without_a_rewrite_reads_as_none(reply):
    assert read_refined(reply) is None


@settings(deadline=None)
@given(ANY_TEXT)
def test_reading_never_raises_and_gives_stripped_text_or_none(reply):
    rewrite = read_refined(reply)
    assert rewrite is None or (rewrite == rewrite.strip() and any(character.isalnum() for character in rewrite))


@settings(deadline=None)
@given(st.text("abz XYZ019éß面.,?!\n").filter(lambda text: any(character.isalnum() for character in text)))
def test_plain_text_in_the_tags_is_read_back(text):
    assert read_refined(f"<refined>{text}</refined>") == text.strip()
