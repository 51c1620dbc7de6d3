import pytest

from evaluation.methods.base import TraceStep
from evaluation.methods.lance_nf import KEPT, LanceNf, coarse_refine
from generation.base import Completion, GenerationError, SamplingParameters
from refinement.frame import COARSE_SYSTEM_PROMPT

SAMPLING = SamplingParameters(max_new_tokens=32)
ANSWER = SamplingParameters(max_new_tokens=9)


class Refiner:
    """Rewrites a prompt by the given table, or fails; what isn't in it comes back unchanged."""

    name, batch_size = "scripted", 4

    def __init__(self, rewrites):
        self.rewrites, self.batches, self.room = rewrites, [], []

    def generate(self, chats, sampling):
        self.room.append(sampling.max_new_tokens)
        prompts = [chat[-1]["content"].removeprefix("<prompt>\n").removesuffix("\n</prompt>") for chat in chats]
        self.batches.append(prompts)
        assert {chat[0]["content"] for chat in chats} == {COARSE_SYSTEM_PROMPT}
        replies = {index: self.reply(prompt) for index, prompt in enumerate(prompts)}
        failures = {index: "no reply" for index, reply in replies.items() if reply is GenerationError}
        if failures:
            raise GenerationError("some failed", failures, {i: r for i, r in replies.items() if i not in failures})
        return list(replies.values())

    def reply(self, prompt):
        reply = self.rewrites.get(prompt, f"<refined>{prompt}</refined>")
        return Completion(reply, 1, 1, "stop") if isinstance(reply, str) else reply


def test_a_prompt_is_rewritten_until_it_comes_back_unchanged():
    refiner = Refiner({"a": "<refined>b</refined>", "b": "<refined>c</refined>"})
    assert coarse_refine(["a", "x"], refiner, SAMPLING, max_steps=5) == ["c", "x"]
    assert refiner.batches == [["a", "x"], ["b"], ["c"]]


def test_the_steps_are_a_budget():
    refiner = Refiner({"a": "<refined>b</refined>", "b": "<refined>c</refined>"})
    assert coarse_refine(["a"], refiner, SAMPLING, max_steps=1) == ["b"]


def test_a_reply_with_nothing_usable_keeps_the_prompt():
    refiner = Refiner({"a": "I'm sorry, but I can't help with that."})
    assert coarse_refine(["a"], refiner, SAMPLING, max_steps=3) == ["a"]
    assert len(refiner.batches) == 1


def lance_nf(scripted_engine, rewrites, max_steps=5):
    return LanceNf(scripted_engine(batch_size=2), Refiner(rewrites), ANSWER, SAMPLING, max_steps)


def test_the_backbone_answers_the_prompt_as_the_refiner_leaves_it(scripted_engine):
    method = lance_nf(scripted_engine, {"a": "<refined>b</refined>"})
    answers = dict(method.answer(["a", "x"]))
    assert [answers[0].response, answers[1].response] == ["answer to b", "answer to x"]
    assert [answers[0].converged, answers[1].converged] == [True, True]
    assert answers[0].steps == [TraceStep("b", "answer to b", finish_reason="stop")]
    assert answers[0].calls == {"refiner": 2, "backbone": 1}
    assert answers[0].tokens == {"prompt": 12, "completion": 5}
    assert answers[1].calls == {"refiner": 1, "backbone": 1}
    assert method.backbone.samplings == [ANSWER]


def test_the_budget_ends_without_a_judgement(scripted_engine):
    method = lance_nf(scripted_engine, {"a": "<refined>b</refined>", "b": "<refined>a</refined>"}, max_steps=3)
    ((_, answer),) = method.answer(["a"])
    assert (answer.response, answer.converged) == ("answer to b", False)
    assert answer.calls == method.most_calls


def test_a_prompt_kept_for_want_of_a_rewrite_says_so(scripted_engine):
    ((_, answer),) = lance_nf(scripted_engine, {"a": "..."}).answer(["a"])
    assert (answer.response, answer.converged) == ("answer to a", False)
    assert answer.steps[0].note == KEPT


def test_batches_are_the_backbone_s_and_each_is_yielded_before_the_next_is_asked(scripted_engine):
    method = lance_nf(scripted_engine, {})
    answers = method.answer(["x", "y", "z"])
    assert [next(answers)[0], next(answers)[0]] == [0, 1]
    assert method.refiner.batches == [["x", "y"]]
    assert [place for place, _ in answers] == [2]


def test_a_prompt_s_failure_is_its_own_at_either_engine(scripted_engine):
    rewrites = {"b": "<refined>b fails</refined>", "c": GenerationError}
    answers = dict(lance_nf(scripted_engine, rewrites).answer(["a", "b", "c", " ", "d"]))
    assert [answers[0].response, answers[4].response] == ["answer to a", "answer to d"]
    assert [answers[place].response for place in (1, 2, 3)] == [None] * 3
    assert answers[1].error == "backbone: the server is gone"
    assert answers[2].error == "refiner: no reply"
    assert "blank" in answers[3].error


def test_coarse_refine_tells_of_a_failure():
    with pytest.raises(GenerationError, match="prompt 1: refiner: no reply"):
        coarse_refine(["a", "c"], Refiner({"c": GenerationError}), SAMPLING, max_steps=2)


@pytest.mark.parametrize(("length", "room"), [(60, [32]), (1000, [32, 512])])
def test_a_long_prompt_has_room_for_as_long_a_rewrite_and_those_beside_it_their_own(length, room):
    refiner = Refiner({})
    coarse_refine(["a", "x" * length], refiner, SAMPLING, max_steps=2)
    assert refiner.room == room


def test_a_rewrite_that_was_cut_off_is_not_used():
    cut = Completion("<refined>the first half of", 1, 1, "length")
    assert coarse_refine(["a"], Refiner({"a": cut}), SAMPLING, max_steps=2) == ["a"]
