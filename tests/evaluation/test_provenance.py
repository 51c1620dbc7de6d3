import json

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation import provenance
from evaluation.provenance import describe_fixed, describe_session
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
