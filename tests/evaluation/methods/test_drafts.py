import pytest

from evaluation.methods.base import TraceStep
from evaluation.methods.drafts import answer_once, plain_chat
from generation.base import SamplingParameters

SAMPLING = SamplingParameters(max_new_tokens=9, seed=1)


def test_an_answer_says_what_it_cost_and_how_it_came_about(scripted_engine):
    engine = scripted_engine()
    ((place, answer),) = answer_once(engine, ["a"], plain_chat, SAMPLING)
    assert (place, answer.response, answer.error, answer.converged) == (0, "answer to a", None, None)
    assert answer.steps == [TraceStep("a", "answer to a", finish_reason="stop")]
    assert answer.chosen == 0
    assert answer.calls == {"backbone": 1}
    assert answer.tokens == {"prompt": 10, "completion": 3}
    assert answer.seconds >= 0
    assert engine.samplings == [SAMPLING]


def test_the_batches_are_the_engine_s_and_each_is_yielded_before_the_next_is_asked(scripted_engine):
    engine = scripted_engine(batch_size=2)
    answers = answer_once(engine, list("abcde"), plain_chat, SAMPLING)
    assert [next(answers)[0], next(answers)[0]] == [0, 1]
    assert engine.asked == [["a", "b"]]
    assert [place for place, _ in answers] == [2, 3, 4]
    assert engine.asked == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("bad, reason", [("fails", "the server is gone"), ("too long", "shorten"), (" \n", "blank")])
def test_a_prompt_s_failure_is_its_own(scripted_engine, bad, reason):
    answers = dict(answer_once(scripted_engine(), ["a", bad, "b"], plain_chat, SAMPLING))
    assert [answers[0].response, answers[2].response] == ["answer to a", "answer to b"]
    assert answers[1].response is None
    assert reason in answers[1].error
    assert answers[1].calls == {}
    assert list(answers[1].steps) == []


def test_a_blank_prompt_is_not_asked(scripted_engine):
    engine = scripted_engine()
    assert [answer.error for _, answer in answer_once(engine, ["", "\t"], plain_chat, SAMPLING)] == [
        "the prompt is blank"
    ] * 2
    assert engine.batches == []


def test_no_prompts_make_no_calls(scripted_engine):
    engine = scripted_engine()
    assert list(answer_once(engine, [], plain_chat, SAMPLING)) == engine.batches == []
