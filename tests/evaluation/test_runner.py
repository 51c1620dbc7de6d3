import json
from collections import Counter
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation import engine_pool, runner
from evaluation.assembly import Models
from evaluation.engine_pool import EnginePool
from evaluation.judge import MAX_NEW_TOKENS
from evaluation.outcomes import MEASURES
from evaluation.runner import collect_answers, collect_scores, take_measures
from evaluation.store import RunStore, read_run
from evaluation.study import Backbone, Study
from tests.evaluation.study_runs import RUBRICS, UNSCORED, answer, measure, older, score
from tests.scripted import Engine

CATEGORY = "privacy_violation"
REWRITES = {"Ann": 1, "Bob": 3, "Cid": 2, "Dan": 1}  # that a prompt takes to be safe
SAMPLES = [EvaluationPrompt(f"{name} lives where?", CATEGORY) for name in REWRITES]
REFINER = "transformers:refiner"
STUDY = Study((Backbone("A", "backbone"),), methods=("lance",), refiner=REFINER, prompt_count=len(SAMPLES))


class Detector:
    """Finds a prompt safe after its number of rewrites, each of which adds a word."""

    def assess(self, prompts, responses=None, *, risk_threshold=None, uncertainty=None):
        return [self.verdict(prompt.split()) for prompt in prompts]

    def verdict(self, words):
        risk = 0.1 if len(words) - 3 >= REWRITES[words[0]] else 0.9
        effort = {CATEGORY: "Severe"} if risk > 0.3 else {}
        return SimpleNamespace(mean={CATEGORY: risk}, std={CATEGORY: 0.1}, effort=effort)


class OneTopic:
    """Every text is on one topic."""

    def embed(self, texts):
        return torch.ones(len(texts), 1)


class Mortal(Engine):
    """An engine whose process is killed in place of a batch; what it generated before outlives it."""

    def __init__(self, name, answer, batches=None):
        super().__init__(answer)
        self.name, self.batch_size, self.left = name, 2, batches

    def generate(self, chats, sampling):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        return super().generate(chats, sampling)

    @property
    def generated(self):
        return Counter(json.dumps(chat) for batch in self.batches for chat in batch)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Let one process work on the run, killed in place of its refiner's or backbone's batch, if it is told so."""
    number = count()  # no two draws are alike, in any of the processes

    def draw(chat):
        prompt = chat[-1]["content"].rpartition("<prompt>\n")[2].removesuffix("\n</prompt>")
        return f"<refined>{prompt} {next(number)}</refined>"

    def work(backbone_batches=None, refiner_batches=None):
        engines = {
            "backbone": Mortal("backbone", lambda chat: "Bread and tea.", backbone_batches),
            REFINER: Mortal(REFINER, draw, refiner_batches),
        }
        monkeypatch.setattr(engine_pool, "load_engine", lambda spelling, adapter: engines[spelling])
        models = Models(EnginePool(), Detector(), OneTopic(), tmp_path)
        with RunStore(tmp_path, STUDY.fixed(), {}) as store:
            try:
                collect_answers(STUDY, SAMPLES, store, models)
            except KeyboardInterrupt:
                assert len(store.answers) < len(SAMPLES)
        return engines["backbone"].generated, engines[REFINER].generated

    return work


@pytest.mark.parametrize("killed_at", [{"backbone_batches": place} for place in range(5)] + [{"refiner_batches": 2}])
def test_killed_under_lance_a_rerun_generates_nothing_twice(work, tmp_path, killed_at):
    first, second = work(**killed_at), work()
    asked, drawn = (sum(counters, Counter()) for counters in zip(first, second, strict=True))
    assert set(asked.values()) == {1}
    assert set(drawn.values()) == {STUDY.candidates}
    assert len(drawn) == sum(REWRITES.values())
    answers = read_run(tmp_path).answers.values()
    assert {answer["prompt"].split()[0]: len(answer["steps"]) - 1 for answer in answers} == REWRITES


class Classifier:
    """A prompt is as harmful as it is long."""

    def risk(self, prompts, responses):
        return [len(prompt) / 100 for prompt in prompts]

    def detect(self, responses):
        return [False] * len(responses)


def test_what_an_older_run_has_measured_in_part_is_measured_again_and_nothing_else(tmp_path, monkeypatch):
    for name in ("IndependentClassifier", "RefusalDetector"):
        monkeypatch.setattr(runner, name, SimpleNamespace(load=Classifier))
    before, whole = (answer("lance", sample, prompt=SAMPLES[sample].prompt) for sample in range(2))
    models = Models(EnginePool(), Detector(), OneTopic(), tmp_path)
    with RunStore(tmp_path, {}, {}) as store:
        for record in (before, whole, older(measure(before)), measure(whole)):
            store.append(record)
        for _ in range(2):
            take_measures(store, models)
            assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 5
    measures = read_run(tmp_path).measures
    assert measures["lance", "A", 0].keys() >= {*MEASURES}
    assert measures["lance", "A", 0]["independent_risk_as_asked"] == len(before["prompt"]) / 100
    assert measures["lance", "A", 1] == measure(whole)


class Thinker(Engine):
    """A judge whose replies take 200 tokens."""

    def generate(self, chats, sampling):
        replies = super().generate(chats, sampling)
        if sampling.max_new_tokens >= 200:
            return replies
        return [replace(reply, text="", finish_reason="length") for reply in replies]


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Have a store's answers judged with a limit, and tell the scores and how many replies were asked for."""
    study = Study((Backbone("A", "backbone"),), methods=("vanilla",), judges=("judge",), prompt_count=1)

    def judged(store, limit):
        judge = Thinker(lambda chat: '{"reason": "Plain.", "score": 7}')
        monkeypatch.setattr(engine_pool, "load_engine", lambda spelling, adapter: judge)
        collect_scores(replace(study, judge_max_new_tokens=limit), store, EnginePool(), tmp_path / "judgements")
        return {record["score"] for record in store.scores.values()}, sum(judge.sizes)

    return judged


def test_a_judge_s_reply_that_a_smaller_limit_cut_off_is_asked_again(tmp_path, judged):
    with RunStore(tmp_path, {}, {}) as store:
        store.append(answer())
        assert judged(store, 128) == ({None}, len(RUBRICS))
        assert judged(store, 128) == ({None}, 0)
        assert judged(store, 256) == ({7}, len(RUBRICS))
        assert judged(store, 512) == ({7}, 0)


def test_an_older_run_s_limit_was_the_default(tmp_path, judged):
    with RunStore(tmp_path, {}, {}) as store:
        store.append(answer())
        for rubric in RUBRICS:
            cut_off = score(answer(), rubric, UNSCORED, "judge") | {"finish_reason": "length"}
            store.append(cut_off)
        assert judged(store, MAX_NEW_TOKENS) == ({None}, 0)
        assert judged(store, 200) == ({7}, len(RUBRICS))
