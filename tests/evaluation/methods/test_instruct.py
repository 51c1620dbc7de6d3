from evaluation.methods.instruct import Instruct
from evaluation.methods.vanilla import Vanilla
from generation.base import SamplingParameters

SAMPLING = SamplingParameters(max_new_tokens=9)


def test_the_aligned_model_is_asked_as_the_backbone_would_be(scripted_engine):
    aligned, backbone = scripted_engine(), scripted_engine()
    answers = [answer.response for _, answer in Instruct(aligned, SAMPLING).answer(["a", "b"])]
    assert answers == [answer.response for _, answer in Vanilla(backbone, SAMPLING).answer(["a", "b"])]
    assert aligned.batches == backbone.batches


def test_it_has_its_own_name():
    assert (Instruct.name, Vanilla.name) == ("instruct", "vanilla")
