from evaluation.methods.base import TraceStep
from evaluation.methods.sysprompt import SYSTEM_PROMPT, SysPrompt
from generation.base import SamplingParameters

SAMPLING = SamplingParameters(max_new_tokens=9)


def test_each_prompt_stands_as_it_is_under_the_system_prompt(scripted_engine):
    backbone = scripted_engine()
    list(SysPrompt(backbone, SAMPLING).answer(["a", "b"]))
    system = {"role": "system", "content": SYSTEM_PROMPT}
    assert backbone.batches == [[[system, {"role": "user", "content": text}] for text in "ab"]]


def test_the_trace_holds_the_user_s_prompt_alone(scripted_engine):
    method = SysPrompt(scripted_engine(), SAMPLING)
    ((_, answer),) = method.answer(["a"])
    assert answer.steps == [TraceStep("a", "answer to a", finish_reason="stop")]
    assert answer.calls == method.most_calls
    assert method.name == "sysprompt"


def test_there_is_a_system_prompt():
    assert len(SYSTEM_PROMPT.split()) > 50
