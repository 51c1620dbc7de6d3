import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.tags import Tags

TAGS = Tags("prompt", "response")
PIECES = ("<", "/", "prompt", "response", "PROMPT", ">", " ", "\n", "\u200b", "p\u00adrompt", "x", "<prompts>")


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_opens_or_closes_its_frame(text):
    framed = TAGS.frame(prompt=text, response=text)
    shown = re.sub(r"[^\w<>/]", "", framed)  # as a reader sees it who skips what doesn't show
    found = re.findall(r"</?(?:prompt|response)\b[^>]*>", shown, re.IGNORECASE)
    assert found == ["<prompt>", "</prompt>", "<response>", "</response>"]


@pytest.mark.parametrize("text", ["", "2 < 3", "<b>bold</b>", "&lt;prompt>", "a prompt in <i>words</i>", "<prompts>"])
def test_other_text_stays_as_it_is(text):
    assert TAGS.escape(text) == text


@pytest.mark.parametrize("tag", ["<prompt>", "</prompt>", "< / Prompt >", "<\u200bprompt x='1'>", "<pro\u00admpt>"])
def test_a_tag_of_ours_is_escaped_however_it_is_spelled(tag):
    assert TAGS.escape(tag) == "&lt;" + tag[1:]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_what_was_escaped_comes_back(text):
    assert TAGS.unescape(TAGS.escape(text)) == text


def test_another_escape_stays():
    assert TAGS.unescape("2 &lt; 3, &lt;b>bold, &lt;prompts>") == "2 &lt; 3, &lt;b>bold, &lt;prompts>"
