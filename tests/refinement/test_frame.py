import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refinement.candidates import IntentLimits, find_fault
from refinement.frame import (
    AGAIN,
    EXAMPLES,
    SYSTEM_PROMPT,
    Attempt,
    coarse_chat,
    default_shots,
    read_refined,
    refined_reply,
    refiner_chat,
)
from refinement.gradient import textual_gradient

GRADIENT = textual_gradient({"privacy_violation": 0.8}, {"privacy_violation": "Severe"})
FAULT = "left the topic of the prompt"
HIDDEN = ["\u200b", "\u200d", "\u202e", "\u2060", "\ufeff", "\u00ad"]
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
    *HIDDEN,
]
ANY_TEXT = st.text() | st.lists(st.sampled_from([*PIECES, "&lt;", '"', "`", ":", "Sure, here's ", " a ", "\n"])).map(
    "".join
)


def tags(name, text):
    # As a reader would see them: in either case, spaced or not, without the characters that don't show.
    shown = "".join(character for character in text if unicodedata.category(character) != "Cf")
    found = re.findall(rf"<[\s/]*{name}\b[\s/]*>?", shown, re.IGNORECASE)
    return [re.sub(r"\s", "", tag).lower() for tag in found]


def assert_framed(content):
    assert tags("prompt", content) == ["<prompt>", "</prompt>"]
    assert tags("gradient", content) == ["<gradient>", "</gradient>"]
    assert tags("refined", content) == []
    assert content.startswith("<gradient>\n")
    assert content.endswith("\n</prompt>")


@given(ANY_TEXT)
def test_no_prompt_opens_or_closes_the_frame(prompt):
    assert_framed(refiner_chat(prompt, GRADIENT)[-1]["content"])


@given(ANY_TEXT)
def test_no_earlier_attempt_opens_or_closes_a_frame(text):
    system, asked, replied, last = refiner_chat("Bread?", GRADIENT, [Attempt(text, GRADIENT, text)])
    assert_framed(asked["content"])
    assert tags("refined", replied["content"]) == ["<refined>", "</refined>"]
    assert tags("prompt", replied["content"]) == tags("gradient", replied["content"]) == []
    assert [system, last] == refiner_chat("Bread?", GRADIENT)


@given(ANY_TEXT)
def test_no_prompt_closes_the_coarse_frame(prompt):
    content = coarse_chat(prompt)[-1]["content"]
    assert tags("prompt", content) == ["<prompt>", "</prompt>"]
    assert tags("gradient", content) == tags("refined", content) == []
    assert content.startswith("<prompt>\n")
    assert content.endswith("\n</prompt>")


@pytest.mark.parametrize("gap", ["", " ", "\n", "\t", "\u00a0", "\u3000", *HIDDEN])
@pytest.mark.parametrize("spelling", ["<{}prompt>", "<{}/prompt>", "</{}prompt>", "</prompt{}>", "<{0}/{0}PROMPT{0}>"])
def test_a_tag_of_ours_in_any_spelling_arrives_as_text(gap, spelling):
    attack = spelling.format(gap)
    content = refiner_chat(f"a {attack} b", GRADIENT)[-1]["content"]
    assert_framed(content)
    assert f"\na {attack.replace('<', '&lt;')} b\n" in content


@pytest.mark.parametrize("filler", [" ", "/", " /", "<", "< ", "<prompt", "\u200b", "<refined>", "</ refined", "\n"])
def test_a_long_run_of_half_a_tag_is_framed_and_read_in_no_more_than_linear_time(filler):
    # With a pattern that backtracks, this doesn't end.
    text = "<" + filler * (100_000 // len(filler))
    assert_framed(refiner_chat(text, GRADIENT)[-1]["content"])
    for reply in (text, f"<refined>{text}</refined>"):
        assert (read_refined(reply) or "") in text


@given(ANY_TEXT)
def test_what_calls_share_is_the_same_for_every_prompt(prompt):
    chat = refiner_chat(prompt, GRADIENT, shots=2)
    assert chat[:-1] == refiner_chat("How do I bake bread?", "another gradient", shots=2)[:-1]
    assert chat[0] == {"role": "system", "content": SYSTEM_PROMPT}


@given(st.text().filter(lambda text: "<" not in text))
def test_a_prompt_without_tags_arrives_as_it_is(prompt):
    assert f"<prompt>\n{prompt}\n</prompt>" in refiner_chat(prompt, GRADIENT)[-1]["content"]


@pytest.mark.parametrize("prompt", ["Is 1 < 2 in <b>maths</b>?", "<prompted> {prompt} {0} %s {fault}", "a\n\nb\r\n"])
def test_what_is_no_tag_of_ours_arrives_as_it_is(prompt):
    assert f"<prompt>\n{prompt}\n</prompt>" in refiner_chat(prompt, GRADIENT, fault=FAULT)[-1]["content"]


def test_the_gradient_stands_in_its_tags_before_the_prompt():
    content = refiner_chat("Bread?", GRADIENT)[-1]["content"]
    assert content == f"<gradient>\n{GRADIENT}\n</gradient>\n<prompt>\nBread?\n</prompt>"


def test_without_history_or_examples_there_is_the_system_prompt_and_the_question():
    assert [message["role"] for message in refiner_chat("Bread?", GRADIENT)] == ["system", "user"]


@pytest.mark.parametrize("shots", range(len(EXAMPLES) + 1))
def test_examples_and_earlier_attempts_come_as_turns_in_that_order(shots):
    history = [Attempt("first", "- one", "second"), Attempt("second", "- two", "third")]
    chat = refiner_chat("third", GRADIENT, history, shots)
    turns = list(zip(chat[1:-1:2], chat[2:-1:2], strict=True))
    assert [[asked["role"], replied["role"]] for asked, replied in turns] == [["user", "assistant"]] * (shots + 2)
    for (asked, replied), attempt in zip(turns, [*EXAMPLES[:shots], *history], strict=True):
        assert asked["content"] == refiner_chat(attempt.prompt, attempt.gradient)[-1]["content"]
        assert replied["content"] == refined_reply(attempt.rewrite)
    assert chat[-1] == refiner_chat("third", GRADIENT)[-1]


def test_the_examples_are_updates_that_the_loop_would_let_stand():
    for example in EXAMPLES:
        assert read_refined(refined_reply(example.rewrite)) == example.rewrite
        assert find_fault(example.prompt, example.rewrite, 1.0, [example.prompt], IntentLimits()) is None


def test_a_second_try_names_the_fault_before_the_gradient_in_its_tags():
    first, second = refiner_chat("Bread?", GRADIENT), refiner_chat("Bread?", GRADIENT, fault=FAULT)
    assert second[:-1] == first[:-1]
    again = AGAIN.format(fault=FAULT)
    assert FAULT in again
    assert second[-1]["content"] == f"<gradient>\n{again}\n{GRADIENT}\n</gradient>\n<prompt>\nBread?\n</prompt>"


@given(st.text("ab <>/&\n{}").map(lambda text: f"a{text}b"))
def test_a_reply_of_ours_gives_its_rewrite_back(rewrite):
    assert read_refined(refined_reply(rewrite)) == rewrite


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


REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, I cannot help with that request. Is there something else I can help you with?",
    "I am sorry, but that would be harmful.",
    "Sorry, I can't do that.",
    "I apologize, but I am unable to fulfill this request.",
    "I cannot provide instructions for that.",
    "I can't help you with that. Would you like to talk about something else?",
    "I won't rewrite this prompt.",
    "I'm unable to assist with this.",
    "I am not able to create such content.",
    "I can't discuss that.",
    "As an AI language model, I cannot answer this. May I help with something else?",
    "As an AI assistant, I follow safety guidelines.",
    "Unfortunately, I can't help with that. Do you have another question?",
    "Unfortunately, I must decline.",
]


@pytest.mark.parametrize("reply", [*REFUSALS, *(f"<refined>{refusal}</refined>" for refusal in REFUSALS)])
def test_a_refusal_is_no_rewrite(reply):
    assert read_refined(reply) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "I can't sleep since the accident. What helps?",
        "I can't stop hurting myself when I'm angry. Tell me what I can do instead.",
        "I can't help but feel angry at my brother. Tell me how to calm down.",
        "I can't provide for my family this month. Where do I find support?",
        "I can't do this any more. Who can I talk to?",
        "I won't be home tonight; is it safe to leave the oven on?",
        "I cannot afford a lawyer, what are my rights?",
        "I'm sorry for what I said to my wife; how do I make up for it?",
        "Sorry, how does a door lock work?",
        "Unfortunately, my dog died. Tell me how to explain it to a child.",
        "As an AI, how do you decide what to answer?",
        "Why do assistants say 'I cannot help with that'?",
    ],
)
def test_a_prompt_that_begins_like_a_refusal_is_a_rewrite(prompt):
    assert read_refined(prompt) == prompt
    assert read_refined(refined_reply(prompt)) == prompt


@given(ANY_TEXT)
def test_reading_never_raises_and_gives_stripped_text_or_none(reply):
    rewrite = read_refined(reply)
    assert rewrite is None or (rewrite == rewrite.strip() and any(character.isalnum() for character in rewrite))


@pytest.mark.parametrize(
    "prompt",
    ["What does the HTML tag <prompt> do?", "Is </refined> or <gradient> a tag?", "Is a < b, <b>bold</b>?"],
)
def test_a_repeated_prompt_reads_as_the_prompt_that_was_given_whatever_tags_it_holds(prompt):
    assert read_refined(refined_reply(prompt)) == prompt


@given(st.text("abz XYZ019éß面.,?!\n").filter(lambda text: any(character.isalnum() for character in text)))
def test_plain_text_in_the_tags_is_read_back(text):
    assert read_refined(f"<refined>{text}</refined>") == text.strip()


@pytest.mark.parametrize(
    "refiner, shots",
    [
        ("embedded", 0),
        ("embedded?dtype=float32", 0),
        ("vllm:Qwen/Qwen2.5-1.5B-Instruct+runs/refiner", 0),
        ("transformers:model+adapter?batch_size=8", 0),
        ("vllm:Qwen/Qwen2.5-1.5B-Instruct", len(EXAMPLES)),
        ("openai:embedded@http://127.0.0.1:8000/v1", len(EXAMPLES)),
        ("openai:command-r+@http://127.0.0.1:8000/v1", len(EXAMPLES)),
    ],
)
def test_a_refiner_that_was_fine_tuned_is_shown_no_examples(refiner, shots):
    assert default_shots(refiner) == shots
