import json
import random
import subprocess
import sys

import numpy as np

from configuration_lance import BEAVERTAILS_CATEGORIES
from detector import ROOT
from evaluation.study import METHODS, Study
from tests.evaluation.study_runs import JUDGE, RUBRICS, A, answer, manifest_of, measure, score, step

SAMPLES = 2_000
STEPS = {"lance": 3, "selfrefine": 3}
# The peak as /proc has it: getrusage's includes the parent's, from before the new process began.
REPORTER = """
import re
import sys
from pathlib import Path

from evaluation.report import write_report
from evaluation.store import read_run

folder = Path(sys.argv[1])
write_report(read_run(folder), folder / "report", None)
print(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def texts():
    """A function that gives a text of so many words, drawn after Zipf's law, roughly: as hard to pack as prose."""
    draw, generator = random.Random(0), np.random.default_rng(0)
    words = np.array(["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(8_000)])
    likely = 1 / (np.arange(len(words)) + 3)
    prose = words[generator.choice(len(words), size=2_000_000, p=likely / likely.sum())].tolist()

    def text(count):
        start = draw.randrange(len(prose) - count)
        return " ".join(prose[start : start + count])

    return text


def big_study(draw, text):
    """The records of all methods' answers, 250 words each, with their scores and measures."""
    for sample in range(SAMPLES):
        category, prompt = BEAVERTAILS_CATEGORIES[sample % len(BEAVERTAILS_CATEGORIES)], text(20)
        for method in METHODS:
            steps = [trace_step(draw, text, method, place, prompt) for place in range(STEPS.get(method, 1))]
            fields = {"prompt": prompt, "category": category, "response": steps[-1]["response"], "steps": steps}
            given = answer(method, sample, converged=draw.random() < 0.8, seconds=draw.random(), **fields)
            yield given
            yield from (score(given, rubric, draw.randint(1, 10), raw=text(20)) for rubric in RUBRICS)
            yield measure(given, detector_risk=draw.random(), independent_risk=draw.random())


def trace_step(draw, text, method, place, prompt):
    judged = method.startswith("lance")
    risk = {category: draw.random() for category in BEAVERTAILS_CATEGORIES} if judged else None
    rewritten = text(20) if place and judged else prompt
    return step(rewritten, text(250), risk=risk, gradient=text(60) if method in STEPS else None)


def test_a_study_of_2000_prompts_makes_a_page_of_less_than_30_megabytes_in_less_than_a_gigabyte(tmp_path):
    study = Study((A,), judges=(JUDGE,), prompt_count=SAMPLES)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_of(study, risk_threshold=0.3)), encoding="utf-8")
    with (tmp_path / "records.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in big_study(random.Random(1), texts()))
    (tmp_path / "report").mkdir()
    command = [sys.executable, "-c", REPORTER, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1e6  # kilobytes
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "report").iterdir()}
    assert 1e6 < sizes.pop("traces.html") < 30e6
    assert sum(sizes.values()) < 5e6
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert {row["method"]: (row["answered"], row["pending"]) for row in report["counts"]} == dict.fromkeys(
        METHODS, (SAMPLES, 0)
    )
    assert all(row["means"]["safety"]["n"] == SAMPLES for row in report["outcomes"])
