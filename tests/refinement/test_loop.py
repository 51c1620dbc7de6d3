from dataclasses import dataclass

import pytest

from generation.base import Completion, PromptTooLongError, SamplingParameters
from refinement.frame import RETRY, refiner_chat
from refinement.loop import RefinementParameters, refine

CATEGORY = "privacy_violation"
OTHER = "self_harm"


class Engine:
    """Answers by a function of the chat, unless it refuses the chat as too long."""

    name = "scripted"

    def __init__(self, answer, refuses=lambda chat: False):
        self.answer, self.refuses = answer, refuses
        self.batches, self.samplings = [], []

    def generate(self, chats, sampling):
        for index, chat in enumerate(chats):
            if self.refuses(chat):
                raise PromptTooLongError(index, 99, 64, chat[-1]["content"])
        self.batches.append(chats)
        self.samplings.append(sampling)
        return [Completion(self.answer(chat), 10, 3, "stop") for chat in chats]

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


class Target(Engine):
    def __init__(self, **options):
        super().__init__(lambda chat: f"answer to {chat[-1]['content']}", **options)


class Refiner(Engine):
    """Appends a plus sign to the prompt, unless told otherwise."""

    def __init__(self, answer=None, **options):
        super().__init__(answer or (lambda chat: f"<refined>{framed_prompt(chat)}+</refined>"), **options)


@dataclass
class Risk:
    mean: dict
    std: dict
    effort: dict
    truncated_tokens: int = 0

    @property
    def is_safe(self):
        return not self.effort


class Detector:
    def __init__(self, risks):
        self.risks = risks
        self.passes, self.thresholds = [], []

    def assess(self, prompts, responses, risk_threshold=None):
        self.passes.append(list(zip(prompts, responses, strict=True)))
        self.thresholds.append(risk_threshold)
        return [self._risk(self.risks[prompt]) for prompt in prompts]

    def _risk(self, risk):
        effort = {CATEGORY: "Severe"} if risk > 0.3 else {}
        return Risk({CATEGORY: risk, OTHER: 0.01}, {CATEGORY: 0.05, OTHER: 0.02}, effort)


def framed_prompt(chat):
    content = next(message["content"] for message in reversed(chat) if "<prompt>" in message["content"])
    return content.rpartition("<prompt>\n")[2].removesuffix("\n</prompt>")


def run(prompts, risks, target=None, refiner=None, **parameters):
    target, refiner, detector = target or Target(), refiner or Refiner(), Detector(risks)
    finished = list(refine(prompts, target, refiner, detector, RefinementParameters(**parameters)))
    return finished, target, refiner, detector


def test_a_safe_prompt_comes_back_byte_for_byte_after_one_answer():
    prompt = "  How do I\r\n\tbake <prompt>bread</prompt>? \u00a0é́ "
    finished, target, refiner, detector = run([prompt], {prompt: 0.1})
    ((index, refinement),) = finished
    assert index == 0
    assert refinement.converged
    assert refinement.best.prompt == prompt
    assert refinement.best.response == f"answer to {prompt}"
    assert target.batches == [[[{"role": "user", "content": prompt}]]]
    assert detector.passes == [[(prompt, f"answer to {prompt}")]]
    assert refiner.batches == []
    assert refinement.calls == {"target": 1, "refiner": 0, "detector": 1}


def test_an_unsafe_prompt_is_rewritten_with_its_gradient_until_it_is_safe():
    finished, target, refiner, _ = run(["a"], {"a": 0.9, "a+": 0.5, "a++": 0.2})
    ((_, refinement),) = finished
    assert [step.prompt for step in refinement.steps] == ["a", "a+", "a++"]
    assert [step.response for step in refinement.steps] == ["answer to a", "answer to a+", "answer to a++"]
    assert refinement.converged
    assert refinement.best is refinement.steps[-1]
    first, second, last = refinement.steps
    assert "privacy violation (risk 0.90, Severe)" in first.gradient
    assert last.gradient == ""
    assert [batch[0] for batch in refiner.batches] == [
        refiner_chat("a", first.gradient),
        refiner_chat("a+", second.gradient),
    ]


def test_each_step_is_one_call_of_each_engine_and_finished_prompts_leave_the_batch():
    risks = {"a": 0.1, "b": 0.9, "b+": 0.2, "c": 0.9, "c+": 0.8, "c++": 0.1}
    finished, target, refiner, detector = run(["a", "b", "c"], risks)
    assert target.sizes == [3, 2, 1]
    assert refiner.sizes == [2, 1]
    assert [len(pairs) for pairs in detector.passes] == [3, 2, 1]
    assert [[chat[-1]["content"] for chat in batch] for batch in target.batches] == [
        ["a", "b", "c"],
        ["b+", "c+"],
        ["c++"],
    ]
    assert [index for index, _ in finished] == [0, 1, 2]
    assert all(refinement.converged for _, refinement in finished)


def test_a_prompt_is_yielded_as_soon_as_it_is_done():
    refiner = Refiner()
    refinements = refine(
        ["b", "a"], Target(), refiner, Detector({"a": 0.1, "b": 0.9, "b+": 0.1}), RefinementParameters()
    )
    index, refinement = next(refinements)
    assert (index, refinement.prompt) == (1, "a")
    assert refiner.batches == []
    assert [index for index, _ in refinements] == [0]


def test_the_same_prompt_twice_is_refined_twice():
    finished, target, _, _ = run(["b", "b"], {"b": 0.9, "b+": 0.1})
    assert [index for index, _ in finished] == [0, 1]
    assert [len(refinement.steps) for _, refinement in finished] == [2, 2]


def test_no_prompts_make_no_calls():
    finished, target, _, detector = run([], {})
    assert finished == []
    assert target.batches == []
    assert detector.passes == []


def test_max_steps_0_assesses_only():
    ((_, refinement),), target, refiner, _ = run(["a"], {"a": 0.9}, max_steps=0)
    assert len(refinement.steps) == 1
    assert not refinement.converged
    assert target.sizes == [1]
    assert refiner.batches == []


def test_a_prompt_that_is_never_safe_returns_its_step_of_lowest_risk_as_not_converged():
    risks = {"a": 0.8, "a+": 0.4, "a++": 0.9, "a+++": 0.6}
    ((_, refinement),), _, refiner, _ = run(["a"], risks, max_steps=3)
    assert len(refinement.steps) == 4
    assert refiner.sizes == [1, 1, 1]
    assert not refinement.converged
    assert refinement.best.prompt == "a+"
    record = refinement.as_record()
    assert (record["refined_prompt"], record["response"]) == ("a+", "answer to a+")


def test_the_result_is_never_worse_than_the_input():
    ((_, refinement),), *_ = run(["a"], {"a": 0.5, "a+": 0.9, "a++": 0.8}, max_steps=2)
    assert refinement.best is refinement.steps[0]


@pytest.mark.parametrize("useless", ["", "...", "<refined></refined>", "<refined> a\n</refined>", "a"])
def test_a_reply_without_a_new_prompt_is_retried_once_with_other_dice(useless):
    def answer(chat):
        return f"<refined>{framed_prompt(chat)}+</refined>" if chat[-1]["content"] == RETRY else useless

    refiner = Refiner(answer)
    rewrite = SamplingParameters(max_new_tokens=7, seed=3)
    ((_, refinement),), *_ = run(["a"], {"a": 0.9, "a+": 0.1}, refiner=refiner, rewrite=rewrite, retry_temperature=0.6)
    assert refinement.converged
    assert [step.note for step in refinement.steps] == [None, None]
    assert refiner.batches[1] == [refiner_chat("a", refinement.steps[0].gradient, failed_reply=useless)]
    first, second = refiner.samplings
    assert first == rewrite
    assert (second.temperature, second.max_new_tokens) == (0.6, 7)
    assert second.seed != first.seed
    assert refinement.calls["refiner"] == 2


def test_after_two_replies_without_a_prompt_the_prompt_is_kept_with_a_note():
    refiner = Refiner(lambda chat: "...")
    ((_, refinement),), target, _, _ = run(["a"], {"a": 0.9}, refiner=refiner, max_steps=2)
    assert [step.prompt for step in refinement.steps] == ["a", "a", "a"]
    assert refiner.sizes == [1, 1, 1, 1]
    first, second, third = refinement.steps
    assert first.note is None
    assert "kept" in second.note
    assert "kept" in third.note
    assert not refinement.converged
    assert refinement.error is None
    assert len({sampling.seed for sampling in refiner.samplings[1::2]}) == 2  # each retry is another draw


def test_only_prompts_without_a_rewrite_are_retried():
    def answer(chat):
        return "..." if framed_prompt(chat) == "b" else f"<refined>{framed_prompt(chat)}+</refined>"

    finished, _, refiner, _ = run(["a", "b"], {"a": 0.9, "a+": 0.1, "b": 0.9}, refiner=Refiner(answer), max_steps=1)
    assert refiner.sizes == [2, 1]
    notes = {refinement.prompt: refinement.steps[-1].note for _, refinement in finished}
    assert notes["a"] is None
    assert "kept" in notes["b"]


def test_a_note_belongs_to_its_own_step():
    def answer(chat):
        asked.append(chat)
        return "..." if len(asked) <= 2 else f"<refined>{framed_prompt(chat)}+</refined>"

    asked = []
    ((_, refinement),), *_ = run(["a"], {"a": 0.9, "a+": 0.1}, refiner=Refiner(answer))
    assert [step.prompt for step in refinement.steps] == ["a", "a", "a+"]
    assert [step.note is None for step in refinement.steps] == [True, False, True]


def test_a_prompt_too_long_for_the_target_fails_alone():
    target = Target(refuses=lambda chat: "LONG" in chat[-1]["content"])
    prompts = ["a", "LONG one", "b", "LONG two"]
    finished, _, refiner, _ = run(prompts, {"a": 0.1, "b": 0.9, "b+": 0.1}, target=target)
    results = dict(finished)
    assert sorted(results) == [0, 1, 2, 3]
    assert results[0].converged
    assert results[2].converged
    assert target.sizes == [2, 1]
    assert refiner.sizes == [1]
    for index in (1, 3):
        assert results[index].error.startswith("target: 99 tokens leave no room")
        assert not results[index].converged
        assert results[index].steps == []
        assert results[index].calls == {"target": 0, "refiner": 0, "detector": 0}
        record = results[index].as_record()
        assert record["refined_prompt"] is None
        assert record["response"] is None
        assert record["converged"] is False


def test_a_chat_too_long_for_the_refiner_keeps_its_first_step():
    refiner = Refiner(refuses=lambda chat: "LONG" in framed_prompt(chat))
    risks = {"LONG": 0.6, "b": 0.9, "b+": 0.1}
    finished, target, _, _ = run(["LONG", "b"], risks, refiner=refiner)
    results = {refinement.prompt: refinement for _, refinement in finished}
    failed = results["LONG"]
    assert failed.error.startswith("refiner: ")
    assert [step.prompt for step in failed.steps] == ["LONG"]
    assert failed.best.max_risk == 0.6
    assert not failed.converged
    assert failed.calls == {"target": 1, "refiner": 0, "detector": 1}
    assert results["b"].converged
    assert target.sizes == [2, 1]


def test_a_rewrite_too_long_for_the_target_keeps_the_steps_before():
    target = Target(refuses=lambda chat: chat[-1]["content"] == "a+")
    ((_, refinement),), *_ = run(["a"], {"a": 0.9}, target=target)
    assert refinement.error.startswith("target: ")
    assert [step.prompt for step in refinement.steps] == ["a"]
    assert refinement.as_record()["response"] == "answer to a"


def test_calls_and_tokens_add_up():
    risks = {"a": 0.1, "b": 0.9, "b+": 0.8, "b++": 0.1}
    finished, target, refiner, detector = run(["a", "b"], risks)
    for role, made in (("target", sum(target.sizes)), ("refiner", sum(refiner.sizes)), ("detector", 4)):
        assert sum(refinement.calls[role] for _, refinement in finished) == made
    assert finished[1][1].calls == {"target": 3, "refiner": 2, "detector": 3}
    assert finished[1][1].tokens == {"prompt": 50, "completion": 15}
    assert finished[0][1].tokens == {"prompt": 10, "completion": 3}
    assert 0 <= finished[0][1].seconds <= finished[1][1].seconds


def test_a_record_has_the_agreed_keys():
    ((_, refinement),), *_ = run(["a"], {"a": 0.9, "a+": 0.1})
    record = refinement.as_record()
    agreed = {"prompt", "refined_prompt", "response", "converged", "steps", "calls", "tokens", "seconds"}
    assert agreed <= set(record)
    assert (record["prompt"], record["refined_prompt"], record["response"]) == ("a", "a+", "answer to a+")
    assert record["converged"] is True
    assert len(record["steps"]) == 2
    for step in record["steps"]:
        assert {"prompt", "response", "risk", "uncertainty", "effort", "gradient"} <= set(step)
    assert record["steps"][0]["risk"] == {CATEGORY: 0.9, OTHER: 0.01}
    assert record["steps"][0]["uncertainty"] == {CATEGORY: 0.05, OTHER: 0.02}
    assert record["steps"][0]["effort"] == {CATEGORY: "Severe"}
    assert record["steps"][1]["effort"] == {}
    assert record["calls"] == {"target": 2, "refiner": 1, "detector": 2}
    assert record["tokens"] == {"prompt": 30, "completion": 9}


@pytest.mark.parametrize("threshold", [None, 0.42])
def test_the_threshold_is_passed_on(threshold):
    _, _, _, detector = run(["a"], {"a": 0.9, "a+": 0.1}, risk_threshold=threshold)
    assert detector.thresholds == [threshold, threshold]


def test_decoding_is_passed_on():
    answer, rewrite = SamplingParameters(max_new_tokens=9, seed=1), SamplingParameters(max_new_tokens=5, seed=2)
    _, target, refiner, _ = run(["a"], {"a": 0.9, "a+": 0.1}, answer=answer, rewrite=rewrite)
    assert target.samplings == [answer, answer]
    assert refiner.samplings == [rewrite]
