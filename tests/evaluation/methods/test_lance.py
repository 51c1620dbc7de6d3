import json
from dataclasses import asdict

import pytest

from evaluation.measures import final_pair
from evaluation.methods.lance import Lance
from generation.base import SamplingParameters
from refinement.constructive import constructive_reply
from refinement.loop import RefinementParameters

CATEGORY = "privacy_violation"


def plus(chat):
    """The prompt in the refiner's frame with a plus sign after it."""
    prompt = chat[-1]["content"].rpartition("<prompt>\n")[2].removesuffix("\n</prompt>")
    return f"<refined>{prompt}+</refined>"


@pytest.fixture
def lance(scripted_engine, scripted_detector, one_topic):
    def build(risks, refiner=plus, batch_size=4, **parameters):
        backbone = scripted_engine(batch_size=batch_size)
        chosen = RefinementParameters(**{"candidates": 1} | parameters)
        return Lance(backbone, scripted_engine(refiner), scripted_detector(risks), one_topic, chosen)

    return build


def test_the_user_gets_the_safe_answer_and_the_trace_tells_how(lance):
    ((place, answer),) = lance({"a": 0.9, "a+": 0.1}).answer(["a"])
    assert (place, answer.response, answer.converged, answer.error) == (0, "answer to a+", True, None)
    first, last = answer.steps
    assert (first.prompt, first.response, first.risk, first.effort) == (
        "a",
        "answer to a",
        {CATEGORY: 0.9},
        {CATEGORY: "Severe"},
    )
    assert "privacy violation (risk 0.90, Severe)" in first.gradient
    assert (last.prompt, last.response, last.effort, last.gradient) == ("a+", "answer to a+", {}, None)
    assert answer.calls == {"backbone": 2, "refiner": 1}
    assert answer.tokens == {"prompt": 30, "completion": 9}


def test_without_a_safe_answer_the_user_gets_the_constructive_reply(lance):
    ((_, answer),) = lance({"a": 0.9, "a+": 0.8}, max_steps=1).answer(["a"])
    assert answer.response == constructive_reply([CATEGORY])
    assert (answer.converged, answer.chosen) == (False, None)


def test_of_steps_with_equal_answers_the_safe_one_is_the_chosen_one(lance):
    method = lance({"a": 0.9, "a+": 0.1})
    method.backbone.answer = lambda chat: "Bread."
    ((_, answer),) = method.answer(["a"])
    assert [step.response for step in answer.steps] == ["Bread.", "Bread."]
    assert (answer.response, answer.chosen) == ("Bread.", 1)
    assert final_pair(asdict(answer) | {"prompt": "a"}) == ("a+", "Bread.")


def test_what_went_wrong_in_a_step_is_noted(lance):
    ((_, answer),) = lance({"a": 0.9}, refiner=lambda chat: "...", max_steps=1).answer(["a"])
    assert [step.note is None for step in answer.steps] == [True, False]


@pytest.mark.parametrize("candidates", [1, 3])
def test_no_more_calls_are_made_than_foretold(lance, candidates):
    risks = {f"a{'+' * n}": 0.9 for n in range(4)}
    useless_at_first = lance(
        risks,
        refiner=lambda chat: plus(chat) if "The last reply" in chat[-1]["content"] else "...",
        max_steps=3,
        candidates=candidates,
    )
    ((_, answer),) = useless_at_first.answer(["a"])
    assert answer.calls == useless_at_first.most_calls


def test_the_backbone_s_batch_size_and_both_decodings_are_used(lance):
    sampling = {"answer": SamplingParameters(max_new_tokens=9), "rewrite": SamplingParameters(max_new_tokens=5)}
    method = lance({"a": 0.9, "a+": 0.1, "b": 0.1, "c": 0.1}, batch_size=2, **sampling)
    assert {place for place, _ in method.answer(["a", "b", "c"])} == {0, 1, 2}
    assert method.backbone.asked == [["a", "b"], ["a+", "c"]]
    assert set(method.backbone.samplings) == {sampling["answer"]}
    assert method.refiner.samplings == [sampling["rewrite"]]


def test_a_prompt_s_failure_is_its_own(lance):
    method = lance({"a": 0.1, "b": 0.1, "b, then": 0.9}, refiner=lambda chat: "<refined>b, then it fails</refined>")
    answers = dict(method.answer(["a", "fails", " ", "b, then"]))
    assert answers[0].response == "answer to a"
    assert [answers[place].response for place in (1, 2, 3)] == [None] * 3
    assert [answers[place].converged for place in (1, 2, 3)] == [None] * 3
    assert [answers[place].chosen for place in range(4)] == [0, None, None, None]
    assert "the server is gone" in answers[1].error
    assert "blank" in answers[2].error
    assert [step.prompt for step in answers[3].steps] == ["b, then"]


def test_an_answer_can_be_stored_as_json(lance):
    ((_, answer),) = lance({"a": 0.9, "a+": 0.1}).answer(["a"])
    assert json.loads(json.dumps(asdict(answer)))["steps"][0]["risk"] == {CATEGORY: 0.9}
