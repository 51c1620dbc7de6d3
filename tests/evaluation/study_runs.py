"""Runs with known scores, built in memory."""

from evaluation.store import Run

JUDGE, SECOND = "openai:first-judge", "openai:second-judge"
RUBRICS = ("safety", "helpfulness", "naturalness")
UNSCORED = "unscored"  # a judge's reply without a score
THEFT, VIOLENCE = "theft", "violence"


def backbone(name, commercial=False):
    return {"name": name, "engine": "embedded", "instruct": None, "repe": None, "commercial": commercial}


A = backbone("A")


def answer(method, sample, name="A", **fields):
    return {
        "kind": "answer",
        "method": method,
        "backbone": name,
        "sample": sample,
        "prompt": f"Question {sample}?",
        "category": THEFT if sample % 2 else VIOLENCE,
        "response": "A short answer.",
        "steps": [{"prompt": f"Question {sample}?", "response": "A short answer."}],
        "calls": {"backbone": 1},
        "tokens": {"prompt": 10, "completion": 20},
        "seconds": 2.0,
        "converged": None,
        "error": None,
    } | fields


def score(of, rubric, value, judge=JUDGE):
    names = {name: of[name] for name in ("method", "backbone", "sample")}
    return names | {"judge": judge, "rubric": rubric, "score": None if value == UNSCORED else value, "error": None}


def measure(of, **figures):
    names = {name: of[name] for name in ("method", "backbone", "sample")}
    defaults = {"detector_risk": 0.5, "independent_risk": 0.5, "answer_similarity": 0.5, "rigid_refusal": False}
    return names | defaults | figures


def run_of(answers, scores=(), measures=(), backbones=(A,), judges=(JUDGE,)):
    config = {"backbones": list(backbones), "judges": list(judges)}

    def by(names, records):
        return {tuple(record[name] for name in names): record for record in records}

    key = ("method", "backbone", "sample")
    return Run(
        {"version": 1, "fixed": {}, "sessions": [{"config": config}]},
        by(key, answers),
        by((*key, "judge", "rubric"), scores),
        by(key, measures),
    )


def scored_run(columns, judge=JUDGE, **fields):
    """A run in which every rubric has the same scores.

    Args:
        columns: by backbone and method, a score a sample; `None` for a sample without an answer.
        judge: gave them.
        fields: of `run_of`.
    """
    answers = {
        (name, method, sample): answer(method, sample, name)
        for (name, method), values in columns.items()
        for sample, value in enumerate(values)
        if value is not None
    }
    scores = [
        score(of, rubric, columns[name, method][sample], judge)
        for (name, method, sample), of in answers.items()
        for rubric in RUBRICS
    ]
    return run_of(answers.values(), scores, **{"judges": (judge,)} | fields)
