"""A run's traces as one HTML page to browse: it fetches nothing, and a text of the run is only ever text in it."""

import base64
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.outcomes import MEASURES, RUBRICS
from evaluation.store import Run
from evaluation.study import METHODS
from evaluation.study_cells import METHOD_NAMES
from refinement.gradient import category_name

PARTS = Path(__file__).with_name("page")
SCRIPTS = ("data.js", "elements.js", "trace.js", "page.js")
CHUNK = 100  # samples packed together; the browser says how far it is after each


def write_page(run: Run, path: Path, banner: str | None = None):
    """Write the page.

    Args:
        run: its finished answers make the page, with the scores and measures that they have.
        path: the file.
        banner: a warning that stands above everything, if there is one.
    """
    samples = _samples(run)
    style, script = _inline("page.css"), _inline(*SCRIPTS)
    environment = Environment(loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("page.html.jinja2").render(
        banner=banner,
        run=_overview(run, samples),
        chunks=[_pack(samples[start : start + CHUNK]) for start in range(0, len(samples), CHUNK)],
        style=style,
        style_hash=_source_hash(style),
        script=script,
        script_hash=_source_hash(script),
    )
    path.write_text(page, encoding="utf-8")


def _overview(run: Run, samples: Sequence[Mapping]) -> dict:
    """What the page says of the whole run: its parts in their order, with their printed names."""
    categories = _risk_categories(run)
    prompt_categories = sorted({sample["category"] for sample in samples})
    return {
        "pairs": _pairs(run),
        "judges": list(dict.fromkeys(score["judge"] for score in run.scores.values())),
        "rubrics": RUBRICS,
        "threshold": run.manifest["fixed"].get("risk_threshold"),
        "categories": categories,
        "prompt_categories": prompt_categories,
        "labels": METHOD_NAMES | {name: category_name(name) for name in (*categories, *prompt_categories)},
    }


def _pairs(run: Run) -> list[tuple[str, str]]:
    """The backbones and methods of the answers, in the study's order; a backbone that left the study comes last."""
    pairs = {(answer["backbone"], answer["method"]) for answer in run.answers.values()}
    named = [backbone["name"] for backbone in run.manifest["sessions"][-1]["config"]["backbones"]]
    order = [*named, *sorted({backbone for backbone, _ in pairs}.difference(named))]
    return sorted(pairs, key=lambda pair: (order.index(pair[0]), METHODS.index(pair[1])))


def _risk_categories(run: Run) -> list[str]:
    """The categories of the run's risks, in the detector's order; none where no method has a detector."""
    risks = (step["risk"] for answer in run.answers.values() for step in answer["steps"] if step["risk"])
    return list(next(risks, {}))


def _samples(run: Run) -> list[dict]:
    """Each sample with its traces: side by side they pack well, for they share their prompts."""
    scores = defaultdict(list)
    for (*of_answer, _, _), score in run.scores.items():
        scores[tuple(of_answer)].append(_score(score))
    samples: dict[int, dict] = {}
    for key, answer in sorted(run.answers.items(), key=lambda item: item[1]["sample"]):
        opening = {"sample": answer["sample"], "prompt": answer["prompt"], "category": answer["category"], "traces": []}
        sample = samples.setdefault(answer["sample"], opening)
        sample["traces"].append(_trace(answer, scores[key], run.measures.get(key)))
    return list(samples.values())


def _trace(answer: Mapping, scores: list[dict], measures: Mapping | None) -> dict:
    names = ("method", "backbone", "response", "chosen", "calls", "tokens", "converged")
    return {
        **{name: answer[name] for name in names},
        "seconds": round(answer["seconds"], 1),
        "steps": [_step(step) for step in answer["steps"]],
        "scores": scores,
        "measures": measures and {name: _rounded(measures[name]) for name in MEASURES if name in measures},
    }


def _step(step: Mapping) -> dict:
    """The step, with its risk as a row in the categories' order."""
    return {**step, "risk": step["risk"] and [_rounded(risk) for risk in step["risk"].values()]}


def _score(score: Mapping) -> dict:
    """The score; the judge's own text stays only where it could not be read."""
    names = ("judge", "rubric", "score", "reason", "raw")
    return {name: score[name] for name in (names if score["score"] is None else names[:3])}


def _rounded(figure: float) -> float:
    return round(figure, 2)


def _pack(samples: Sequence[Mapping]) -> str:
    """JSON in gzip in base64, in which HTML finds no markup."""
    text = json.dumps(samples, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _inline(*names: str) -> Markup:
    """Files of the page, one after the other, as they stand."""
    return Markup("\n".join((PARTS / name).read_text(encoding="utf-8") for name in names))


def _source_hash(text: str) -> str:
    """The text as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
