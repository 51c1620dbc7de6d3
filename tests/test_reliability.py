"""refine.py against a server that fails, and against `kill -9`."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from detector import ROOT
from tests.generation.faulty_server import FaultyServer, answer, failure, garbage, half_a_body, no_choices, silence

SAFE, UNSAFE = "0.999", "0.001"  # thresholds that every pair passes, and none
KEY = "sk-nobody-may-see-this"
KILLS = 10
DEADLINE = 900  # seconds; a process that is not through by then hangs, on a busy machine too

FAULTS = {
    "busy": (failure(429, "slow down", [("Retry-After", "0")]), "429 - slow down"),
    "broken": (failure(500, "boom"), "500 - boom"),
    "garbled": (garbage(), "holds no completion"),
    "empty": (no_choices(), "holds no completion"),
    "torn": (half_a_body(), "closed connection"),
    "silent": (silence(), "no reply within"),
    "locked": (failure(401, f"Incorrect API key provided: {KEY}"), "401 - Incorrect API key provided: ***"),
}
LASTING = {"locked"}  # not retried


def start(server, detector, prompts, output, *arguments, options="attempts=2&back_off=0.01"):
    """refine.py as a user starts it; the server is target and refiner."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    environment["OPENAI_API_KEY"] = KEY
    chosen = {
        "input": prompts,
        "output": output,
        "detector": detector,
        "target": f"openai:target@{server.url}?{options}",
        "refiner": f"openai:refiner@{server.url}?{options}",
    }
    command = [sys.executable, "refine.py", *(part for name, value in chosen.items() for part in (f"--{name}", value))]
    return subprocess.Popen(
        [*map(str, command), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finish(process):
    try:
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, errors


def good(asked):
    """An answer, or a rewrite that may stand."""
    if asked.model == "refiner":
        original = asked.prompt.partition("<prompt>\n")[2].partition("\n</prompt>")[0]
        return answer(f"<refined>{original} Please answer kindly.</refined>")
    return answer(f"An answer to: {asked.prompt}")


def whole_records(output):
    """The records of a file that ends with a whole line."""
    content = output.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def write_prompts(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return path


def wait_until(happened, process):
    while not happened():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def test_five_hundred_prompts_survive_ten_kills_and_each_is_there_once(tiny_detector, tmp_path):
    dice = random.Random(20)
    prompts = [f"Question {number}: how do I bake bread at home?" for number in range(500)]
    source, output = write_prompts(tmp_path / "prompts.jsonl", prompts), tmp_path / "refined.jsonl"
    output.touch()
    run = ("--threshold", UNSAFE, "--max_steps", "1", "--max_new_tokens", "4")
    with FaultyServer(good) as server:
        for kill in range(KILLS):
            process = start(server, tiny_detector, source, output, *run)
            asked, size = len(server.asked), output.stat().st_size
            # Some die before their first record, the others while they write.
            if kill % 3 == 0:
                requests = dice.randint(1, 40)
                wait_until(lambda asked=asked, requests=requests: len(server.asked) >= asked + requests, process)
            else:
                growth = dice.randint(1, 80_000)
                wait_until(lambda size=size, growth=growth: output.stat().st_size >= size + growth, process)
            time.sleep(dice.uniform(0, 0.1))
            assert process.poll() is None  # it was still at work
            process.kill()
            process.communicate()
        assert 0 < output.read_bytes().count(b"\n") < len(prompts)
        code, errors = finish(start(server, tiny_detector, source, output, *run))
    assert (code, errors) == (3, "")
    records = whole_records(output)
    assert Counter(record["line"] for record in records) == Counter(range(1, 501))
    assert {record["line"]: record["prompt"] for record in records} == dict(enumerate(prompts, start=1))
    assert {record["error"] for record in records} == {None}
    assert {len(record["steps"]) for record in records} == {2}
    # What was finished was not asked again: at most one batch is lost to each kill.
    assert sum(server.asks().get(prompt, 0) for prompt in prompts) <= len(prompts) + 2 * 16 * KILLS


@pytest.fixture(scope="module")
def two_runs(tiny_detector, tmp_path_factory):
    """A run against a server with faults, and one after the server was mended."""
    folder = tmp_path_factory.mktemp("faults")
    prompts = [f"{kind} {number}" for number in range(3) for kind in ("good", *FAULTS)]
    source, output = write_prompts(folder / "prompts.jsonl", prompts), folder / "refined.jsonl"

    def faulty(asked):
        kind = asked.prompt.partition(" ")[0]
        return FAULTS[kind][0] if kind in FAULTS else good(asked)

    runs = []
    for script in (faulty, good):
        with FaultyServer(script) as server:
            process = start(
                server, tiny_detector, source, output, "--threshold", SAFE, options="attempts=2&timeout=3&back_off=0.01"
            )
            code, errors = finish(process)
        runs.append((code, errors, server.asks(), whole_records(output)))
    return prompts, *runs


def test_a_prompt_that_the_server_fails_is_tried_again_and_then_recorded_with_its_reason(two_runs):
    prompts, (code, errors, asks, records), _ = two_runs
    assert code == 4
    assert [record["line"] for record in sorted(records, key=lambda record: record["line"])] == [*range(1, 25)]
    for record in records:
        kind = record["prompt"].partition(" ")[0]
        if kind in FAULTS:
            assert record["error"].startswith("target: ")
            assert FAULTS[kind][1] in record["error"]
            assert (record["converged"], record["response"], record["steps"]) == (False, None, [])
            assert f"line {record['line']}: {record['error']}\n" in errors
        else:
            assert record["error"] is None
            assert record["response"] == f"An answer to: {record['prompt']}"
    assert errors.count("\n") == 3 * len(FAULTS)
    assert asks == {prompt: 2 if prompt.partition(" ")[0] in FAULTS.keys() - LASTING else 1 for prompt in prompts}


def test_a_rerun_asks_just_what_had_failed_and_ends_with_each_prompt_once(two_runs):
    prompts, _, (code, errors, asks, records) = two_runs
    assert (code, errors) == (0, "")
    assert asks == {prompt: 1 for prompt in prompts if not prompt.startswith("good")}
    assert {record["line"]: record["prompt"] for record in records} == dict(enumerate(prompts, start=1))
    assert len(records) == len(prompts)
    assert {record["error"] for record in records} == {None}
    assert all(record["converged"] for record in records)


def test_the_key_is_neither_in_the_output_nor_in_an_error(two_runs):
    _, *runs = two_runs
    for _, errors, _, records in runs:
        assert KEY not in errors
        assert KEY not in json.dumps(records)


def test_a_refiner_that_fails_costs_its_own_prompt_alone(tiny_detector, tmp_path):
    prompts = ["How do I bake bread?", "How do I lock my door?", "How do I cross a street?"]
    source, output = write_prompts(tmp_path / "prompts.jsonl", prompts), tmp_path / "refined.jsonl"

    def script(asked):
        return failure(500, "boom") if asked.model == "refiner" and "lock" in asked.prompt else good(asked)

    with FaultyServer(script) as server:
        code, errors = finish(start(server, tiny_detector, source, output, "--threshold", UNSAFE, "--max_steps", "1"))
    assert code == 4
    assert errors == f"refine.py: {source}, line 2: refiner: Error code: 500 - boom\n"
    records = {record["line"]: record for record in whole_records(output)}
    assert [records[line]["error"] for line in (1, 2, 3)] == [None, "refiner: Error code: 500 - boom", None]
    assert [len(records[line]["steps"]) for line in (1, 2, 3)] == [2, 1, 2]


def test_a_server_that_comes_back_in_time_costs_nothing(tiny_detector, tmp_path):
    kinds = [kind for kind in FAULTS if kind not in LASTING]
    prompts = [f"{kind} {number}" for number in range(3) for kind in kinds]
    source, output = write_prompts(tmp_path / "prompts.jsonl", prompts), tmp_path / "refined.jsonl"
    script = lambda asked: good(asked) if asked.earlier else FAULTS[asked.prompt.partition(" ")[0]][0]  # noqa: E731
    with FaultyServer(script) as server:
        process = start(
            server, tiny_detector, source, output, "--threshold", SAFE, options="attempts=2&timeout=3&back_off=0.01"
        )
        assert finish(process) == (0, "")
    assert server.asks() == dict.fromkeys(prompts, 2)
    assert Counter(record["prompt"] for record in whole_records(output)) == Counter(prompts)
