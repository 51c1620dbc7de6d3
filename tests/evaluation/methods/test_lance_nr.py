import pytest

from evaluation.methods.lance_nr import LanceNr
from refinement.loop import RefinementParameters

CATEGORY = "privacy_violation"


@pytest.fixture
def method(scripted_engine, scripted_detector, one_topic):
    detector = scripted_detector({"a": 0.9, "b": 0.1})
    return LanceNr(scripted_engine(), scripted_engine(), detector, one_topic, RefinementParameters(max_steps=3))


def test_the_backbone_s_answer_stands_even_when_it_is_unsafe(method):
    answers = dict(method.answer(["a", "b"]))
    assert [answers[0].response, answers[1].response] == ["answer to a", "answer to b"]
    assert [answers[0].converged, answers[1].converged] == [False, True]
    assert [answers[0].chosen, answers[1].chosen] == [0, 0]
    assert [step.risk for step in answers[0].steps] == [{CATEGORY: 0.9}]
    assert method.refiner.batches == []


def test_it_costs_one_call_a_prompt(method):
    list(method.answer(["a", "b"]))
    assert method.backbone.asked == [["a", "b"]]
    assert (method.name, method.most_calls) == ("lance-nr", {"backbone": 1})


def test_a_prompt_s_failure_is_its_own(method):
    answers = dict(method.answer(["fails", "", "b"]))
    assert [answers[place].response for place in range(3)] == [None, None, "answer to b"]
    assert "the server is gone" in answers[0].error
    assert "blank" in answers[1].error
