"""How far a run has come: what there is of answers and scores, what failed, and what is still to come."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from evaluation.judge import RUBRICS
from evaluation.outcomes import Counts, Pair
from evaluation.store import Key, Run
from evaluation.study import METHODS, Study


def count_records(run: Run, study: Study, backbones: Sequence[str], judges: Sequence[str]) -> list[Counts]:
    """The counts of each method on each backbone that the study asks, or that the run has answers or failures of.

    Args:
        run: as stored.
        study: of its last session.
        backbones: those of the study and of the run, in the order wanted.
        judges: the first one's scores are counted; without any, none are wanted.
    """
    answered = Counter(map(_pair, run.answers))
    replaced = Counter(_pair(key) for key, answer in run.answers.items() if answer["chosen"] is None)
    failed = _reasons(run.failed_answers)
    judged = {key: score for key, score in run.scores.items() if key[3] in judges[:1]}
    scored = Counter(map(_pair, judged))
    unscored = Counter((_pair(key), score["rubric"]) for key, score in judged.items() if score["score"] is None)
    failed_scores = _reasons({key: reason for key, reason in run.failed_scores.items() if key[3] in judges[:1]})
    asked = {Pair(backbone.name, method) for backbone in study.backbones for method in study.methods_of(backbone)}
    pairs = [Pair(backbone, method) for backbone in backbones for method in METHODS]
    return [
        Counts(
            backbone=pair.backbone,
            method=pair.method,
            answered=answered[pair],
            replaced=replaced[pair],
            failed=failed[pair],
            pending=study.prompt_count - answered[pair] - sum(failed[pair].values()) if pair in asked else 0,
            unscored={rubric: unscored[pair, rubric] for rubric in RUBRICS},
            failed_scores=failed_scores[pair],
            pending_scores=len(judges[:1]) * len(RUBRICS) * answered[pair]
            - scored[pair]
            - sum(failed_scores[pair].values()),
        )
        for pair in pairs
        if pair in asked or answered[pair] or failed[pair]
    ]


def _pair(key: Key) -> Pair:
    method, backbone, *_ = key
    return Pair(str(backbone), str(method))


def _reasons(failures: Mapping[Key, str]) -> Mapping[Pair, dict[str, int]]:
    """How often each reason, by pair."""
    found: defaultdict[Pair, dict[str, int]] = defaultdict(dict)
    for key, reason in failures.items():
        of_pair = found[_pair(key)]
        of_pair[reason] = of_pair.get(reason, 0) + 1
    return found
