import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refinement.refusals import BUCKETS, RefusalDetector, refusal_features

REFUSALS = [
    "I cannot fulfill this request.",
    "Sorry, I am unable to do so.",
    "As an AI language model, I cannot give you that.",
    "Unfortunately, I won't be able to help here.",
    "I apologize, but I must decline.",
    "No, I will not do that.",
    "I do not feel comfortable with this subject.",
    "I'm just an AI, it's not within my programming to help anyone cheat in an exam.",
    "It is not appropriate or ethical to read another person's letters. Everyone has a right to privacy.",
    "I'm sorry, but I can't assist with that. If you are having a hard time, please talk to somebody you trust.",
    "I cannot provide instructions on how to cheat in an exam, as it is dishonest and goes against the rules. "
    "It is important to study and to ask your teacher for help. Is there anything else I can help you with?",
]
ANSWERS = [
    "Bread needs flour, water, salt and yeast.",
    "You can't bake bread without heat, so preheat the oven.",
    "Sure! Here is how to end a process.",
    "The law says that a landlord cannot enter without notice.",
    "Here is a plan. If it fails, I cannot promise that the second one works.",
    "I can't recommend it enough! The second season is even better than the first one.",
    "I'm sorry to hear that you slept badly. A dark room and a fixed hour help most people.",
    "Sorry for the delay! The recipe needs two eggs, a cup of milk and some flour.",
    "No, whales are not fish; they breathe air and feed their young with milk.",
    "Rome.",
]
PARTIAL_REFUSALS = [
    "I cannot encourage anyone to fight, but here are some tips for winning a debate:\n\n1. Know your facts.\n"
    "2. Listen to the other side.\n3. Speak slowly and keep your points short.",
    'It\'s not appropriate to say that you will "crush" your colleagues. Instead, focus on your own work. '
    "Here are some suggestions:\n\n1. Set clear goals.\n2. Ask for feedback.\n3. Learn something new each week.",
]


@pytest.fixture(scope="module")
def detector():
    return RefusalDetector.load()


@pytest.mark.parametrize("response", REFUSALS)
def test_a_refusal_is_found(detector, response):
    assert detector.detect([response]) == [True]


@pytest.mark.parametrize("response", ANSWERS)
def test_an_answer_is_none(detector, response):
    assert detector.detect([response]) == [False]


@pytest.mark.parametrize("response", PARTIAL_REFUSALS)
def test_a_refusal_that_goes_on_to_help_is_none(detector, response):
    assert detector.detect([response]) == [False]


@pytest.mark.parametrize("response", ["", "  \n", "?!", "…"])
def test_a_response_without_a_word_is_none(detector, response):
    assert detector.detect([response]) == [False]


@pytest.mark.parametrize("space", ["\n", "\n "])
def test_a_long_run_of_space_is_read_in_no_more_than_linear_time(detector, space):
    # With a pattern that backtracks, this doesn't end.
    assert not detector.detect([f"Knead.{space * 1_000_000}Rest."])[0]


def test_no_response_is_no_verdict(detector):
    assert detector.detect([]) == []


@pytest.mark.parametrize("apostrophe", "’‘ʼ´`")
def test_any_apostrophe_is_an_apostrophe(apostrophe):
    plain, other = refusal_features(["I'm sorry, but I can't.", "I'm sorry, but I can't.".replace("'", apostrophe)])
    assert (plain != other).nnz == 0


def test_the_first_sentence_is_read_apart():
    opening, later = refusal_features(["I refuse. The end.", "The end. I refuse."])
    assert (opening != later).nnz > 0


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_each_response_is_judged_by_itself(responses):
    features = refusal_features(responses)
    assert features.shape == (len(responses), BUCKETS + 4)
    alone = [refusal_features([response]).toarray()[0] for response in responses]
    assert np.array_equal(features.toarray(), alone)


def test_a_detector_learns_and_comes_back_from_its_file(tmp_path, monkeypatch):
    texts = ["I refuse to tell.", "I refuse, as ever.", "The sea is blue.", "The sea is deep."]
    fitted = RefusalDetector.fit(refusal_features(texts), np.array([True, True, False, False]), np.ones(4))
    fitted.save(tmp_path / "weights.safetensors")
    monkeypatch.setattr("refinement.refusals.WEIGHTS", tmp_path / "weights.safetensors")
    unseen = ["I refuse.", "The sea is wide."]
    assert RefusalDetector.load().detect(unseen) == fitted.detect(unseen) == [True, False]
