"""A study's three passes: the methods' answers, measures without a judge, scores. What is stored is not done again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation.assembly import build_method
from evaluation.engine_pool import EnginePool
from evaluation.judge import Item, Judge, load_rubrics
from evaluation.measures import Refusals, RiskClassifier, measure
from evaluation.progress import track
from evaluation.store import RunStore
from evaluation.study import Study
from refinement.loop import Detector
from refinement.similarity import Embedder

MEASURE_BATCH = 64  # answers; a kill loses no more of the measures


def collect_answers(
    study: Study,
    samples: Sequence[EvaluationPrompt],
    store: RunStore,
    pool: EnginePool,
    detector: Detector,
    embedder: Embedder,
    cache: Path,
):
    """Store every method's answer on every backbone to each sample that has none; `cache` keeps RepE's directions."""
    for backbone in study.backbones:
        for name in study.methods_of(backbone):
            waiting = [place for place in range(len(samples)) if (name, backbone.name, place) not in store.answers]
            if not waiting:
                continue
            pool.keep_only({study.engine_of(name, backbone, role) for role in ("backbone", "refiner")})
            method = build_method(name, backbone, study, pool, detector, embedder, cache)
            with track(f"{backbone.name}, {name}", len(waiting)) as task:
                for place, answer in method.answer([samples[sample].prompt for sample in waiting]):
                    sample = samples[waiting[place]]
                    identity = {"method": name, "backbone": backbone.name, "sample": waiting[place]}
                    store.append({"kind": "answer", **identity, **sample._asdict(), **asdict(answer)})
                    task.advance()


def take_measures(
    store: RunStore, detector: Detector, independent: RiskClassifier, embedder: Embedder, refusals: Refusals
):
    """Store the measures of each answer that lacks them."""
    waiting = [key for key in store.answers if key not in store.measures]
    with track("measures", len(waiting)) as task:
        for start in range(0, len(waiting), MEASURE_BATCH):
            keys = waiting[start : start + MEASURE_BATCH]
            answers = [store.answers[key] for key in keys]
            for answer, values in zip(
                answers, measure(answers, detector, independent, embedder, refusals), strict=True
            ):
                store.append({"kind": "measure", **_identity(answer), **values})
            task.advance(len(keys))


def collect_scores(study: Study, store: RunStore, pool: EnginePool):
    """Store each judge's scores of each answer that lacks them; the user's prompt is what the answer is graded by."""
    rubrics = load_rubrics()
    for spelling in study.judges:
        items = [
            Item(**_identity(answer), rubric=rubric.name, prompt=answer["prompt"], response=answer["response"])
            for rubric in rubrics  # by rubric: their chats share their beginning
            for key, answer in store.answers.items()
            if (*key, spelling, rubric.name) not in store.scores
        ]
        if not items:
            continue
        pool.keep_only({spelling})
        judge = Judge(pool.get(spelling), spelling, rubrics)
        with track(f"judge {spelling}", len(items)) as task:
            for score in judge.score(items):
                store.append({"kind": "score", **asdict(score)})
                task.advance()


def _identity(answer: Mapping) -> dict:
    return {name: answer[name] for name in ("method", "backbone", "sample")}
