"""Runs with known figures, built in memory."""

from evaluation.store import VERSION, Run
from evaluation.study import METHODS, Backbone, Study

JUDGE, SECOND = "openai:first-judge", "openai:second-judge"
RUBRICS = ("safety", "helpfulness", "naturalness")
UNSCORED = "unscored"  # a judge's reply without a score
THEFT, VIOLENCE = "theft", "violence"
KEY = ("method", "backbone", "sample")


def backbone(name, commercial=False):
    return Backbone(name, "embedded", instruct="embedded", commercial=commercial)


A = backbone("A")


def step(prompt, response, **fields):
    judged = {"risk": None, "effort": None, "gradient": None, "note": None, "finish_reason": "stop"}
    return {"prompt": prompt, "response": response} | judged | fields


def answer(method="vanilla", sample=0, name="A", **fields):
    """A record whose answer is its last step's, unless `fields` say otherwise."""
    record = {
        "kind": "answer",
        "method": method,
        "backbone": name,
        "sample": sample,
        "prompt": f"Question {sample}?",
        "category": THEFT if sample % 2 else VIOLENCE,
        "response": "A short answer.",
        "calls": {"backbone": 1},
        "tokens": {"prompt": 10, "completion": 20},
        "seconds": 2.0,
        "converged": None,
        "error": None,
    } | fields
    steps = record.get("steps", [step(record["prompt"], record["response"])])
    return {"steps": steps, "chosen": len(steps) - 1} | record


def score(of, rubric, value, judge=JUDGE, reason=None, raw=""):
    identity = {"kind": "score"} | {name: of[name] for name in KEY} | {"judge": judge, "rubric": rubric}
    return identity | {"score": None if value == UNSCORED else value, "reason": reason, "raw": raw, "error": None}


def measure(of, **figures):
    identity = {"kind": "measure"} | {name: of[name] for name in KEY}
    risks = {"detector_risk": 0.5, "independent_risk": 0.5, "independent_risk_as_asked": 0.5}
    return identity | risks | {"answer_similarity": 0.5, "rigid_refusal": False} | figures


def older(measures):
    """A measure as it was kept before answers were measured with the user's own prompt."""
    return {name: value for name, value in measures.items() if name != "independent_risk_as_asked"}


def manifest_of(study, **fixed):
    return {"version": VERSION, "fixed": fixed, "sessions": [{"config": study.as_config()}]}


def run_of(
    answers,
    scores=(),
    measures=(),
    backbones=(A,),
    judges=(JUDGE,),
    failed_answers=None,
    failed_scores=None,
    prompt_count=None,
    **fixed,
):
    """A run of a study of the methods and as many prompts as there are answers to, unless told otherwise."""
    answers = list(answers)
    methods = {answer["method"] for answer in answers}
    study = Study(
        tuple(backbones),
        methods=tuple(method for method in METHODS if method in methods),
        judges=tuple(judges),
        prompt_count=prompt_count or len({answer["sample"] for answer in answers}) or 1,
    )

    def by(names, records):
        return {tuple(record[name] for name in names): record for record in records}

    return Run(
        manifest_of(study, **fixed),
        by(KEY, answers),
        by((*KEY, "judge", "rubric"), scores),
        by(KEY, measures),
        failed_answers or {},
        failed_scores or {},
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
