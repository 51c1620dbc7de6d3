"""The figures that a study comes to: means, paired differences with their tests, costs; all of it JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from evaluation.judge import RUBRICS
from evaluation.statistics import Estimate

MEASURES = ("detector_risk", "independent_risk", "independent_risk_as_asked", "answer_similarity", "rigid_refusal")
METRICS = (*RUBRICS, *MEASURES)
OURS = "lance"
REWRITING = ("selfrefine", "lance")  # methods whose trace holds a step for each rewrite
BANNER = (
    "These scores were given by the embedded 135 M model, which cannot judge: they prove the wiring and mean nothing."
)


class Pair(NamedTuple):
    """A method on a backbone."""

    backbone: str
    method: str


@dataclass(frozen=True)
class Difference:
    """Lance against another method on the same prompts.

    Args:
        backbone: its name.
        metric: out of `METRICS`.
        method: the other method's name.
        mean: Lance's figure less the other's.
        p: two-sided, of the paired test.
        adjusted: p after Holm, over the methods that the metric is compared for on the backbone.
    """

    backbone: str
    metric: str
    method: str
    mean: Estimate
    p: float
    adjusted: float


@dataclass(frozen=True)
class Cost:
    """What an answer takes on average.

    Args:
        calls: model calls by role.
        tokens: read and written in them ("prompt", "completion").
        seconds: from a prompt's first call until its answer.
        words: the answer's length.
    """

    calls: Mapping[str, float]
    tokens: Mapping[str, float]
    seconds: float
    words: float


@dataclass(frozen=True)
class Convergence:
    """How soon a method found its own answers safe.

    Args:
        after: place t holds the share of the answers that were found safe after exactly t rewrites.
        never: the share that was not within the method's steps.
    """

    after: Sequence[Estimate]
    never: Estimate


@dataclass(frozen=True)
class Counts:
    """How far one method on one backbone has come.

    Args:
        backbone: its name.
        method: its name.
        answered: how many prompts it has answers for.
        replaced: answers that come from no step: Lance's constructive reply, where it found no safe one.
        failed: prompts whose last try gave none, by reason.
        pending: prompts that the study has yet to ask.
        unscored: answers of which the first judge gave no usable score, by rubric.
        failed_scores: judgements of it whose last try failed, over all rubrics, by reason.
        pending_scores: those that it has yet to be asked for, over all rubrics.
    """

    backbone: str
    method: str
    answered: int
    replaced: int
    failed: Mapping[str, int]
    pending: int
    unscored: Mapping[str, int]
    failed_scores: Mapping[str, int]
    pending_scores: int


@dataclass(frozen=True)
class Outcome:
    """One method on one backbone that has answers.

    Args:
        backbone: its name.
        method: its name.
        counts: how many answers and scores there are.
        means: of each metric that was scored or measured.
        categories: the same by metric and category of prompts.
        cost: of an answer.
        convergence: of a method out of `REWRITING`.
    """

    backbone: str
    method: str
    counts: Counts
    means: Mapping[str, Estimate]
    categories: Mapping[str, Mapping[str, Estimate]]
    cost: Cost
    convergence: Convergence | None


@dataclass(frozen=True)
class Agreement:
    """How far judges agree on a rubric, over the answers that each of them scored.

    Args:
        rubric: its name.
        judges: two of them, or all where there are more.
        n: how many answers.
        kappa: quadratic, of two; `None` where it is undefined.
        alpha: Krippendorff's, of all; `None` where it is undefined.
    """

    rubric: str
    judges: Sequence[str]
    n: int
    kappa: float | None
    alpha: float | None


@dataclass(frozen=True)
class Comparison:
    """A run in figures.

    Args:
        judges: all of them, first the one whose scores are used; none in a run without scores.
        own: backbones that aren't commercial, in the config's order.
        commercial: those that are.
        prompts: how many the study asks.
        counts: by backbone and method, in the config's order, with those that have no answers yet.
        outcomes: of those with answers, in the same order.
        differences: Lance against each other method, by backbone, metric and method.
        ours: Lance's mean score by rubric over its own backbones, on the prompts scored on them all.
        agreement: of the judges, where there are several.
    """

    judges: Sequence[str]
    own: Sequence[str]
    commercial: Sequence[str]
    prompts: int
    counts: Sequence[Counts]
    outcomes: Sequence[Outcome]
    differences: Sequence[Difference]
    ours: Mapping[str, Estimate]
    agreement: Sequence[Agreement]

    @property
    def banner(self) -> str | None:
        """What stands on every output of the first judge's scores, where they mean nothing."""
        return _banner(self.judges[:1])

    @property
    def banner_of_all(self) -> str | None:
        """The same where every judge's scores are shown."""
        return _banner(self.judges)

    @property
    def backbones(self) -> list[str]:
        """All of them."""
        return [*self.own, *self.commercial]

    def of(self, backbone: str) -> dict[str, Outcome]:
        """A backbone's outcomes by method."""
        return {outcome.method: outcome for outcome in self.outcomes if outcome.backbone == backbone}

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON's dicts and lists."""
        return _plain(asdict(self) | {"banner": self.banner})


def _banner(judges: Sequence[str]) -> str | None:
    return BANNER if any(judge.startswith("embedded") for judge in judges) else None


def _plain(figures: Any) -> Any:
    """JSON would make a list of an estimate, and lose its names."""
    if isinstance(figures, Estimate):
        return figures._asdict()
    if isinstance(figures, dict):
        return {name: _plain(value) for name, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_plain(value) for value in figures]
    return figures
