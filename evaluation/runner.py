"""A study's three passes: the methods' answers, measures without a judge, scores. What is stored is not done again."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation.assembly import Models, build_method, most_calls
from evaluation.engine_pool import EnginePool
from evaluation.independent import IndependentClassifier
from evaluation.judge import MAX_NEW_TOKENS, Item, Judge, load_rubrics
from evaluation.measures import final_pair, measure
from evaluation.outcomes import MEASURES
from evaluation.progress import track
from evaluation.store import RunStore
from evaluation.study import Backbone, Study
from generation.cache import CachedEngine
from refinement.refusals import RefusalDetector

MEASURE_BATCH = 64  # answers; a kill loses no more of the measures


def collect_answers(study: Study, samples: Sequence[EvaluationPrompt], store: RunStore, models: Models) -> Counter[str]:
    """Store every method's answer on every backbone to each sample that has none; returns the reasons of failures."""
    failures = Counter[str]()
    for backbone in study.backbones:
        for name in study.methods_of(backbone):
            failures.update(_collect(study, name, backbone, samples, store, models))
    return failures


def _collect(
    study: Study,
    name: str,
    backbone: Backbone,
    samples: Sequence[EvaluationPrompt],
    store: RunStore,
    models: Models,
) -> Counter[str]:
    failures = Counter[str]()
    waiting = [place for place in range(len(samples)) if (name, backbone.name, place) not in store.answers]
    if not waiting:
        return failures
    models.pool.keep_only({study.engine_of(name, backbone, role) for role in most_calls(study)[name]})
    method = build_method(name, backbone, study, models)
    with track(f"{backbone.name}, {name}", len(waiting)) as task:
        for place, answer in method.answer([samples[sample].prompt for sample in waiting]):
            identity = {"method": name, "backbone": backbone.name, "sample": waiting[place]}
            sample = samples[waiting[place]]
            store.append({"kind": "answer", **identity, **sample._asdict(), **asdict(answer)})
            failures.update([answer.error] if answer.error is not None else [])
            task.advance()
    return failures


def take_measures(store: RunStore, models: Models):
    """Store the measures of each answer that lacks one of them, as those of an older run do."""
    # Equal pairs are measured once: a model's figures waver in the sixth digit with what else is in the batch.
    alike: dict[tuple[str, ...], list[Mapping]] = defaultdict(list)
    for key, answer in store.answers.items():
        if not store.measures.get(key, {}).keys() >= {*MEASURES}:
            alike[answer["prompt"], *final_pair(answer)].append(answer)
    if not alike:
        return
    groups, independent, refusals = [*alike.values()], IndependentClassifier.load(), RefusalDetector.load()
    with track("measures", sum(map(len, groups))) as task:
        for start in range(0, len(groups), MEASURE_BATCH):
            batch = groups[start : start + MEASURE_BATCH]
            first = [group[0] for group in batch]
            values_of = measure(first, models.detector, independent, models.embedder, refusals)
            for group, values in zip(batch, values_of, strict=True):
                for member in group:
                    store.append({"kind": "measure", **_identity(member), **values})
                task.advance(len(group))


def collect_scores(study: Study, store: RunStore, pool: EnginePool, judgements: Path) -> Counter[str]:
    """Store each judge's scores of each answer that lacks them, by the user's prompt; returns the reasons of failures.

    Args:
        study: names the judges.
        store: holds the answers, and takes the scores.
        pool: loads the judges.
        judgements: the folder that keeps their replies: two methods' equal answers are judged once.
    """
    failures = Counter[str]()
    for spelling in study.judges:
        failures.update(_judge(spelling, study.judge_max_new_tokens, store, pool, judgements))
    return failures


def _judge(spelling: str, max_new_tokens: int, store: RunStore, pool: EnginePool, judgements: Path) -> Counter[str]:
    failures, rubrics = Counter[str](), load_rubrics()
    items = [
        Item(**_identity(answer), rubric=rubric.name, prompt=answer["prompt"], response=answer["response"])
        for rubric in rubrics  # by rubric: their chats share their beginning
        for key, answer in store.answers.items()
        if not _stands(store.scores.get((*key, spelling, rubric.name)), max_new_tokens)
    ]
    if not items:
        return failures
    pool.keep_only({spelling})
    # A folder a judge: named again with another option it judges again, and tells how far it agrees with itself.
    folder = judgements / sha256(spelling.encode()).hexdigest()[:16]
    judge = Judge(CachedEngine(pool.get(spelling), folder), spelling, rubrics, max_new_tokens)
    with track(f"judge {spelling}", len(items)) as task:
        for score in judge.score(items):
            store.append({"kind": "score", **asdict(score)})
            failures.update([score.error] if score.error is not None else [])
            task.advance()
    return failures


def _stands(score: Mapping | None, max_new_tokens: int) -> bool:
    """Whether there is a judgement, and none that a smaller limit of tokens cut off."""
    if score is None:
        return False
    cut_off = score["score"] is None and score.get("finish_reason") == "length"
    return not cut_off or score.get("max_new_tokens", MAX_NEW_TOKENS) >= max_new_tokens  # an older run had the default


def _identity(answer: Mapping) -> dict:
    return {name: answer[name] for name in ("method", "backbone", "sample")}
