import json

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation import provenance
from evaluation.provenance import describe_fixed, describe_session, weights_digest
from evaluation.study import Backbone, Study

STUDY = Study((Backbone("A", "embedded"),))
SAMPLES = [EvaluationPrompt("one", "theft"), EvaluationPrompt("two", "violence")]


def test_a_session_holds_study_commit_and_versions_and_is_json():
    session = json.loads(json.dumps(describe_session(STUDY)))
    assert session["config"]["backbones"][0]["name"] == "A"
    assert session["versions"].keys() >= {"torch", "transformers"}


def test_without_a_clone_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert describe_session(STUDY)["commit"] is None


def test_other_prompts_or_another_order_make_another_run():
    fixed = describe_fixed(STUDY, SAMPLES, "embedded", {"detector": "12"})
    assert fixed == describe_fixed(STUDY, SAMPLES, "embedded", {"detector": "12"})
    assert fixed != describe_fixed(STUDY, SAMPLES[::-1], "embedded", {"detector": "12"})
    assert fixed != describe_fixed(STUDY, SAMPLES[:1], "embedded", {"detector": "12"})
    assert fixed != describe_fixed(STUDY, SAMPLES, "runs/other", {"detector": "12"})
    assert fixed != describe_fixed(STUDY, SAMPLES, "embedded", {"detector": "34"})


def test_a_folders_digest_is_of_its_weights_and_not_of_its_name(tmp_path):
    digests = {}
    for name, weights, config in (("a", b"1", "{}"), ("b", b"1", "{ }"), ("c", b"2", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "config.json").write_text(config)
        digests[name] = weights_digest(tmp_path / name)
    assert digests["a"] == digests["b"] != digests["c"]
    assert weights_digest("org/lance") is None
