"""From a run's answers, scores and measures to its figures."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from errors import UserError
from evaluation.agreement import krippendorff_alpha, quadratic_kappa
from evaluation.bootstrap import ClusteredResamples
from evaluation.counts import count_records
from evaluation.outcomes import (
    MEASURES,
    METRICS,
    OURS,
    REWRITING,
    RUBRICS,
    Agreement,
    Comparison,
    Convergence,
    Cost,
    Counts,
    Difference,
    Outcome,
    Pair,
)
from evaluation.statistics import Estimate, category_means, contrasts, mean_with_interval
from evaluation.store import Run
from evaluation.study import METHODS, Study
from refinement.trace import count_rewrites


class ComparisonError(UserError):
    """A run that there is nothing to say of."""


@dataclass(frozen=True)
class _Sheet:
    """A run in columns that hold a value a sample, NaN where there is none.

    Args:
        places: of the samples in a column.
        answers: by backbone and method.
        columns: the first judge's scores and the measures, by backbone and method, then by metric.
        resamples: of the samples, clustered by category.
    """

    places: Mapping[int, int]
    answers: Mapping[Pair, Sequence[Mapping]]
    columns: Mapping[Pair, Mapping[str, np.ndarray]]
    resamples: ClusteredResamples


def compare(run: Run) -> Comparison:
    """All figures of a run; the first judge's scores make them, the others' tell the agreement.

    Args:
        run: as stored. Its last session gives the order of backbones and judges; those of earlier sessions come last.
            Whether a backbone is commercial, the last session that names it says.

    Raises:
        ComparisonError: when it has no answers.
    """
    if not run.answers:
        raise ComparisonError("the run has no answers yet; `evaluate_lance.py compare` makes them.")
    studies = [Study.from_config(session["config"]) for session in run.manifest["sessions"]]
    study = studies[-1]
    is_commercial = {backbone.name: backbone.commercial for each in studies for backbone in each.backbones}
    names = _ordered(
        [backbone.name for backbone in study.backbones],
        (str(key[1]) for key in (*run.answers, *run.failed_answers)),
    )
    own = [name for name in names if not is_commercial.get(name)]
    commercial = [name for name in names if is_commercial.get(name)]
    judges = _ordered(study.judges, (score["judge"] for score in run.scores.values()))
    sheet = _sheet(run, judges)
    counts = count_records(run, study, (*own, *commercial), judges)
    return Comparison(
        judges=judges,
        own=own,
        commercial=commercial,
        prompts=study.prompt_count,
        counts=counts,
        outcomes=[_outcome(sheet, row) for row in counts if row.answered],
        differences=[row for backbone in (*own, *commercial) for row in _differences(sheet, backbone)],
        ours=_mean_over(sheet, own),
        agreement=[row for rubric in RUBRICS for row in _agreement(run, judges, rubric)],
    )


def _ordered(named: Sequence[str], found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*named, *sorted(set(found))]))


def _sheet(run: Run, judges: Sequence[str]) -> _Sheet:
    categories = {answer["sample"]: answer["category"] for answer in run.answers.values()}
    samples = sorted(categories)
    places = {sample: place for place, sample in enumerate(samples)}
    answers: dict[Pair, list[Mapping]] = defaultdict(list)
    for answer in run.answers.values():
        answers[_pair(answer)].append(answer)
    columns = {pair: {metric: np.full(len(samples), np.nan) for metric in METRICS} for pair in answers}
    for record in run.scores.values():
        if record["judge"] == judges[0] and record["score"] is not None:
            columns[_pair(record)][record["rubric"]][places[record["sample"]]] = record["score"]
    for record in run.measures.values():
        for metric in MEASURES:
            # Of an older run a measure may be missing.
            columns[_pair(record)][metric][places[record["sample"]]] = record.get(metric, np.nan)
    return _Sheet(places, answers, columns, ClusteredResamples([categories[sample] for sample in samples]))


def _pair(record: Mapping) -> Pair:
    return Pair(record["backbone"], record["method"])


def _outcome(sheet: _Sheet, counts: Counts) -> Outcome:
    pair = Pair(counts.backbone, counts.method)
    answers, columns = sheet.answers[pair], sheet.columns[pair]
    means = {metric: mean_with_interval(column, sheet.resamples) for metric, column in columns.items()}
    return Outcome(
        *pair,
        counts=counts,
        means={metric: mean for metric, mean in means.items() if mean is not None},
        categories={metric: category_means(column, sheet.resamples) for metric, column in columns.items()},
        cost=_cost(answers),
        convergence=_convergence(sheet, answers) if pair[1] in REWRITING else None,
    )


def _cost(answers: Sequence[Mapping]) -> Cost:
    calls, tokens = Counter[str](), Counter[str]()
    for answer in answers:
        calls.update(answer["calls"])
        tokens.update(answer["tokens"])
    n = len(answers)
    return Cost(
        calls={role: count / n for role, count in calls.items()},
        tokens={kind: count / n for kind, count in tokens.items()},
        seconds=sum(answer["seconds"] for answer in answers) / n,
        words=sum(len(answer["response"].split()) for answer in answers) / n,
    )


def _convergence(sheet: _Sheet, answers: Sequence[Mapping]) -> Convergence:
    rewrites = np.full(len(sheet.places), np.nan)
    for answer in answers:
        count = count_rewrites(answer["steps"][: answer["chosen"] + 1]) if answer["converged"] else np.inf
        rewrites[sheet.places[answer["sample"]]] = count
    most = max(count_rewrites(answer["steps"]) for answer in answers)
    flags = (np.where(np.isnan(rewrites), np.nan, rewrites == count) for count in (*range(most + 1), np.inf))
    shares = (mean_with_interval(flag, sheet.resamples) for flag in flags)
    *after, never = (share for share in shares if share is not None)  # all of them: there are answers
    return Convergence(after, never)


def _differences(sheet: _Sheet, backbone: str) -> list[Difference]:
    methods = [method for method in METHODS if Pair(backbone, method) in sheet.columns]
    if OURS not in methods:
        return []
    rows = []
    for metric in METRICS:
        values = {method: sheet.columns[Pair(backbone, method)][metric] for method in methods}
        for method, contrast in contrasts(values, OURS, sheet.resamples).items():
            rows.append(Difference(backbone, metric, method, *contrast))
    return rows


def _mean_over(sheet: _Sheet, backbones: Sequence[str]) -> dict[str, Estimate]:
    """Lance's mean scores on the samples that are scored on every backbone that it ran on."""
    found = [sheet.columns[pair] for backbone in backbones if (pair := Pair(backbone, OURS)) in sheet.columns]
    if not found:
        return {}
    means = {
        rubric: mean_with_interval(np.mean([columns[rubric] for columns in found], axis=0), sheet.resamples)
        for rubric in RUBRICS
    }
    return {rubric: mean for rubric, mean in means.items() if mean is not None}


def _agreement(run: Run, judges: Sequence[str], rubric: str) -> list[Agreement]:
    """Each two judges, and all of them where there are more."""
    scores: dict[str, dict[tuple[Pair, int], int]] = {judge: {} for judge in judges}
    for record in run.scores.values():
        if record["rubric"] == rubric and record["score"] is not None:
            scores[record["judge"]][_pair(record), record["sample"]] = record["score"]
    groups = [*combinations(judges, 2), *([tuple(judges)] if len(judges) > 2 else [])]
    rows = []
    for group in groups:
        shared = sorted(set.intersection(*(set(scores[judge]) for judge in group)))
        table = [[scores[judge][answer] for answer in shared] for judge in group]
        if shared:
            kappa = quadratic_kappa(*table) if len(group) == 2 else None
            rows.append(Agreement(rubric, group, len(shared), kappa, krippendorff_alpha(table)))
    return rows
