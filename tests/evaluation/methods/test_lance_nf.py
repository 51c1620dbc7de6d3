from evaluation.methods.lance_nf import coarse_refine
from generation.base import Completion, SamplingParameters
from refinement.frame import COARSE_SYSTEM_PROMPT

SAMPLING = SamplingParameters(max_new_tokens=32)


class Refiner:
    """Rewrites a prompt by the given table; what isn't in it comes back unchanged."""

    name, batch_size = "scripted", 4

    def __init__(self, rewrites):
        self.rewrites, self.batches = rewrites, []

    def generate(self, chats, sampling):
        assert sampling is SAMPLING
        prompts = [chat[-1]["content"].removeprefix("<prompt>\n").removesuffix("\n</prompt>") for chat in chats]
        self.batches.append(prompts)
        assert {chat[0]["content"] for chat in chats} == {COARSE_SYSTEM_PROMPT}
        replies = [self.rewrites.get(prompt, f"<refined>{prompt}</refined>") for prompt in prompts]
        return [Completion(reply, 1, 1, "stop") for reply in replies]


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
