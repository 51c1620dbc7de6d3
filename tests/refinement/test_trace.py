import json

import pytest

from generation.base import Completion
from refinement.constructive import constructive_reply
from refinement.trace import Refinement, Step

PRIVACY, HARM = "privacy_violation", "self_harm"


def step(prompt="a prompt", risk=0.8, threshold=0.3, other=0.01, **fields):
    """A step with one risk that counts and one that is switched off."""
    effort = {PRIVACY: "Severe"} if risk > threshold else {}
    gradient = "- gradient" if effort else ""
    values = {"response": f"answer to {prompt}", "similarity": 0.5} | fields
    spread = {PRIVACY: 0.05, HARM: 0.02}
    return Step(
        prompt, risk={PRIVACY: risk, HARM: other}, uncertainty=spread, effort=effort, gradient=gradient, **values
    )


def refinement(*steps, **fields):
    return Refinement("a prompt", steps=list(steps), **fields)


def test_the_safe_step_is_the_best():
    outcome = refinement(step(risk=0.9), step("better", risk=0.1))
    assert outcome.best.prompt == "better"
    assert outcome.converged


def test_a_safe_step_is_better_than_a_lower_risk_that_is_unsafe():
    # With thresholds by category, the riskier pair may be the safe one.
    outcome = refinement(step(risk=0.35), step("safe", risk=0.5, threshold=0.6))
    assert outcome.best.prompt == "safe"
    assert outcome.converged


def test_without_a_safe_step_the_lowest_risk_is_the_best():
    outcome = refinement(step(risk=0.8), step("lower", risk=0.4), step("higher", risk=0.9))
    assert outcome.best.prompt == "lower"
    assert not outcome.converged


def test_of_equal_risks_the_earlier_is_the_best():
    outcome = refinement(step("first"), step("second"))
    assert outcome.best.prompt == "first"


def test_a_risk_that_does_not_count_does_not_choose_the_best():
    outcome = refinement(step(risk=0.8, other=0.1), step("lower", risk=0.4, other=0.95))
    assert outcome.best.prompt == "lower"
    assert outcome.best.max_risk == 0.4


def test_a_safe_pair_s_highest_risk_is_the_highest_of_all():
    assert step(risk=0.1, other=0.2).max_risk == 0.2


def test_the_response_is_the_safe_answer():
    outcome = refinement(step(), step("better", risk=0.1))
    assert outcome.response == "answer to better"


def test_without_a_safe_answer_the_response_is_the_constructive_reply_to_the_best_step():
    outcome = refinement(step(risk=0.9), step("lower", risk=0.6))
    assert outcome.response == constructive_reply([PRIVACY])


def unanswered(prompt, response):
    return step(prompt, risk=0.1, response=response, refused=True)


def test_of_safe_prompts_that_were_not_answered_the_first_refusal_stands():
    outcome = refinement(unanswered("a prompt", " "), unanswered("better", "I cannot."), unanswered("best", "No."))
    assert (outcome.response, outcome.converged) == ("I cannot.", True)


def test_an_empty_text_is_never_the_safe_answer():
    outcome = refinement(unanswered("a prompt", ""), unanswered("better", "\n"))
    assert not outcome.converged
    assert outcome.response == constructive_reply([])


@pytest.mark.parametrize("steps", [[], [step()]])
def test_after_an_error_there_is_no_response(steps):
    outcome = refinement(*steps, error="target: no answer")
    assert outcome.response is None
    assert not outcome.converged


def test_a_record_holds_every_step_and_what_was_spent():
    outcome = refinement(step(risk=0.9, similarity=1.0), step("a safer prompt", risk=0.123456, similarity=0.87654321))
    outcome.count("target", Completion("x", 10, 3, "stop"))
    outcome.count("target", Completion("y", 7, 2, "stop"))
    outcome.count("refiner", Completion("z", 100, 5, "length"))
    outcome.seconds = 1.23456
    record = outcome.as_record()
    assert json.loads(json.dumps(record)) == record
    steps = record.pop("steps")
    assert record == {
        "prompt": "a prompt",
        "refined_prompt": "a safer prompt",
        "response": "answer to a safer prompt",
        "converged": True,
        "similarity": 0.8765,
        "length_ratio": 1.75,
        "error": None,
        "calls": {"target": 2, "refiner": 1, "detector": 0},
        "tokens": {"prompt": 117, "completion": 10},
        "seconds": 1.235,
    }
    assert steps[1] == {
        "prompt": "a safer prompt",
        "response": "answer to a safer prompt",
        "risk": {PRIVACY: 0.123456, HARM: 0.01},
        "uncertainty": {PRIVACY: 0.05, HARM: 0.02},
        "effort": {},
        "gradient": "",
        "similarity": 0.87654321,
        "note": None,
        "refused": False,
        "finish_reason": None,
    }
    assert len(steps) == 2


def test_a_record_of_an_unsafe_refinement_has_the_constructive_reply_and_keeps_the_unsafe_answers_in_its_steps():
    record = refinement(step(risk=0.9)).as_record()
    assert record["converged"] is False
    assert record["response"] == constructive_reply([PRIVACY])
    assert [taken["response"] for taken in record["steps"]] == ["answer to a prompt"]


def test_a_record_of_a_prompt_that_failed_at_once_has_no_rewrite():
    record = refinement(error="target: no answer").as_record()
    assert record["error"] == "target: no answer"
    assert [record[name] for name in ("refined_prompt", "response", "similarity", "length_ratio")] == [None] * 4
    assert record["converged"] is False
    assert record["steps"] == []


def test_refinements_do_not_share_their_counts():
    one, other = Refinement("a"), Refinement("b")
    one.count("target", Completion("x", 10, 3, "stop"))
    assert other.calls == {"target": 0, "refiner": 0, "detector": 0}
    assert other.tokens == {"prompt": 0, "completion": 0}
    assert other.steps is not one.steps
