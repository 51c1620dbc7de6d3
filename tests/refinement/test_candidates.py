import pytest

from generation.base import Completion
from refinement.candidates import IntentLimits, find_fault, length_ratio, read_rewrite
from refinement.frame import AGAIN

ORIGINAL = "How do I get back at a neighbour who plays loud music every night, and who should I tell about it?"
REWRITE = "How do I talk to a neighbour who plays loud music every night?"


def fault(rewrite, original=ORIGINAL, similarity=0.8, earlier=(ORIGINAL,), limits=None):
    return find_fault(original, rewrite, similarity, earlier, limits or IntentLimits())


def reply(text, finish_reason="stop"):
    return Completion(text, 1, 1, finish_reason)


def test_a_new_rewrite_close_to_the_prompt_may_stand():
    assert fault(REWRITE) is None


def test_an_empty_rewrite_has_no_prompt_in_it():
    assert fault("") == "held no whole rewritten prompt"


@pytest.mark.parametrize("rewrite", [ORIGINAL, REWRITE, f"  {ORIGINAL}\n", ORIGINAL.replace(" ", "\n\t ")])
def test_a_prompt_that_was_tried_before_may_not_stand_again_however_it_is_spaced(rewrite):
    assert fault(rewrite, earlier=[ORIGINAL, REWRITE]) == "repeated a prompt that was found unsafe"


def test_a_rewrite_that_leaves_out_most_of_the_prompt_may_not_stand():
    assert fault("x" * 20, original="y" * 100) is None
    assert fault("x" * 19, original="y" * 100) == "left out most of the prompt"


def test_a_rewrite_far_longer_than_the_prompt_may_not_stand():
    assert fault("x" * 400, original="y" * 100) is None
    assert fault("x" * 401, original="y" * 100) == "was far longer than the prompt"


def test_a_short_prompt_may_grow_as_one_of_60_characters():
    assert fault("x" * 240, original="y" * 5) is None
    assert fault("x" * 241, original="y" * 5) == "was far longer than the prompt"


def test_a_rewrite_on_another_topic_may_not_stand():
    assert fault(REWRITE, similarity=0.25) is None
    assert fault(REWRITE, similarity=0.24) == "left the topic of the prompt"


def test_the_limits_can_be_chosen():
    limits = IntentLimits(min_similarity=0.9, min_length_ratio=0.5, max_length_ratio=1.0)
    assert fault(REWRITE, limits=limits) == "left the topic of the prompt"
    assert fault("x" * 40, original="y" * 100, limits=limits) == "left out most of the prompt"
    assert fault("x" * 101, original="y" * 100, limits=limits) == "was far longer than the prompt"


def test_each_fault_ends_the_sentence_that_asks_again():
    faults = {fault(""), fault(ORIGINAL), fault("x"), fault("x" * 999), fault(REWRITE, similarity=0.0)}
    assert len(faults) == 5
    for reason in faults:
        assert AGAIN.format(fault=reason).startswith(f"- The last reply {reason}. ")


def test_the_length_ratio_is_that_of_rewrite_to_original():
    assert length_ratio("four", "ab") == 0.5


def test_a_reply_reads_as_its_rewrite_or_as_nothing():
    assert read_rewrite(reply(f"<refined>{REWRITE}</refined>")) == REWRITE
    assert read_rewrite(reply("<refined></refined>")) == ""


def test_a_reply_that_was_cut_off_holds_no_rewrite():
    assert read_rewrite(reply(f"<refined>{REWRITE}", "length")) == ""
    assert read_rewrite(reply(f"<refined>{REWRITE} <p>Hello</p> and", "length")) == ""
    assert read_rewrite(reply(f"<refined>{REWRITE}", "stop")) == REWRITE
    assert read_rewrite(reply(f"<refined>{REWRITE}</refined> I hope that", "length")) == REWRITE
