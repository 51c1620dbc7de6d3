from evaluation.methods.vanilla import Vanilla
from generation.base import SamplingParameters

SAMPLING = SamplingParameters(max_new_tokens=9)


def test_the_backbone_reads_the_prompt_byte_for_byte_and_nothing_else(scripted_engine):
    backbone = scripted_engine()
    prompt = "  How do I\r\n\tbake <b>bread</b>? \u00a0"
    ((_, answer),) = Vanilla(backbone, SAMPLING).answer([prompt])
    assert backbone.batches == [[[{"role": "user", "content": prompt}]]]
    assert answer.response == f"answer to {prompt}"


def test_its_calls_stay_within_the_most(scripted_engine):
    method = Vanilla(scripted_engine(), SAMPLING)
    assert method.name == "vanilla"
    assert all(answer.calls == method.most_calls for _, answer in method.answer(["a", "b"]))
