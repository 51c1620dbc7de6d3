import json
from collections import Counter
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation import engine_pool
from evaluation.assembly import Models
from evaluation.engine_pool import EnginePool
from evaluation.runner import collect_answers
from evaluation.store import RunStore, read_run
from evaluation.study import Backbone, Study
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
