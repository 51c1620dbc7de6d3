import json
import os
import subprocess
import sys

import pytest

import refine
from command_line import run
from configuration_lance import BEAVERTAILS_CATEGORIES
from detector import ROOT
from generation.base import SamplingParameters
from refinement.loop import RefinementParameters

QUESTIONS = ["How do I bake bread at home?", "What is the safest way to cross a street?"]
RECORD_KEYS = {"prompt", "refined_prompt", "response", "converged", "similarity", "length_ratio", "error", "steps"}
RECORD_KEYS |= {"calls", "tokens", "seconds"}
STEP_KEYS = {"prompt", "response", "risk", "uncertainty", "effort", "gradient", "similarity"}
STEP_KEYS |= {"note"}
DECIDED = '"converged": true, "error": null, "decision": {}'  # the rest of a finished record
SAFE, UNSAFE = "0.999", "0.001"  # thresholds that every pair passes, and none


@pytest.fixture(scope="module")
def script(tiny_detector, roomy_chat_model):
    """Run refine.py with the tiny models, as a user does."""
    engine = f"transformers:{roomy_chat_model}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}

    def call(*arguments, **options):
        chosen = {"detector": tiny_detector, "target": engine, "refiner": engine, "max_new_tokens": 4} | options
        named = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "refine.py", *map(str, arguments), *named]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")

    return call


@pytest.fixture(scope="module")
def finished_run(script, tmp_path_factory):
    """Two prompts from a text file, refined into an output file."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prompts.txt").write_text(f"{QUESTIONS[0]}\n\n{QUESTIONS[1]}\n", encoding="utf-8")
    done = script("--input", folder / "prompts.txt", "--output", folder / "refined.jsonl", threshold=SAFE)
    return done, folder / "prompts.txt", (folder / "refined.jsonl").read_bytes()


@pytest.fixture
def outcome(capsys):
    """Exit code and stderr of refine.py, run in this process: for what is refused before a model is loaded."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            run("refine.py", lambda: refine.main(refine.make_parser().parse_args([*map(str, arguments)])))
        return ended.value.code, capsys.readouterr().err

    return call


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def assert_one_line(error):
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error


def test_a_safe_prompt_prints_one_json_object_and_exits_0(script):
    done = script("--prompt", QUESTIONS[0], "--json", threshold=SAFE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (record,) = records(done.stdout)
    assert set(record) >= RECORD_KEYS
    assert record["converged"] is True
    assert record["prompt"] == record["refined_prompt"] == QUESTIONS[0]
    (step,) = record["steps"]
    assert set(step) >= STEP_KEYS
    assert step["effort"] == {}
    assert len(step["risk"]) == 14
    assert record["calls"] == {"target": 1, "refiner": 0, "detector": 1}
    assert record["tokens"]["completion"] <= 4


def test_a_prompt_that_is_never_safe_is_rewritten_and_exits_3(script):
    done = script("--prompt", QUESTIONS[0], "--json", threshold=UNSAFE, max_steps=1)
    assert done.returncode == 3, done.stderr
    (record,) = records(done.stdout)
    assert record["converged"] is False
    assert record["error"] is None
    assert len(record["steps"]) == 2
    assert len(record["steps"][0]["effort"]) == 14
    assert record["steps"][0]["gradient"].count("\n") == 13
    assert record["response"].startswith("I would rather not go into ")
    assert record["response"] not in [step["response"] for step in record["steps"]]
    assert record["calls"]["target"] == 1 + (record["steps"][1]["note"] is None)
    assert record["calls"]["refiner"] in (2, 4)  # two draws, and two more where none may stand


def test_on_the_terminal_a_prompt_that_is_never_safe_gets_a_constructive_reply(script):
    done = script("--prompt", QUESTIONS[0], threshold=UNSAFE, max_steps=0)
    assert done.returncode == 3, done.stderr
    assert done.stderr == ""
    assert "No safe answer was found" in done.stdout
    assert "I would rather not go into " in done.stdout


def test_a_prompt_that_the_context_cannot_hold_exits_4_and_the_others_are_written(script, tmp_path):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "refined.jsonl"
    prompts.write_text(f"{QUESTIONS[0]}\n{'x' * 5000}\n{QUESTIONS[1]}\n", encoding="utf-8")
    done = script("--input", prompts, "--output", output, "--json", threshold=SAFE)
    assert done.returncode == 4
    assert_one_line(done.stderr)
    assert done.stderr.startswith(f"refine.py: {prompts}, line 2: target: ")
    assert "leave no room for an answer in the context of 4096" in done.stderr
    written = {row["line"]: row for row in records(output.read_text(encoding="utf-8"))}
    assert {line: row["converged"] for line, row in written.items()} == {1: True, 2: False, 3: True}
    assert written[2]["error"] is not None
    assert written[2]["response"] is None


def test_a_rerun_tries_again_what_had_failed_and_nothing_else(script, finished_run, tmp_path):
    _, prompts, content = finished_run
    output = tmp_path / "refined.jsonl"
    first, second = content.splitlines(keepends=True)
    failed = json.loads(first) | {"error": "target: the server is down", "converged": False}
    output.write_bytes(json.dumps(failed).encode() + b"\n" + second)
    done = script("--input", prompts, "--output", output, "--json", threshold=SAFE)
    assert done.returncode == 0, done.stderr
    assert [row["prompt"] for row in records(done.stdout)] == [failed["prompt"]]
    kept, redone = output.read_bytes().splitlines(keepends=True)
    assert kept == second
    assert json.loads(redone)["error"] is None


def test_each_option_reaches_the_loop(monkeypatch, tiny_detector, roomy_chat_model):
    given = []
    monkeypatch.setattr(refine, "refine", lambda *arguments: given.extend(arguments) or [])
    engine = f"transformers:{roomy_chat_model}"
    chosen = ("--detector", tiny_detector, "--target", engine, "--refiner", engine, "--prompt", QUESTIONS[0])
    options = ("--uncertainty", 0.8, "--candidates", 3, "--shots", 1, "--batch_size", 7, "--max_steps", 4)
    decoding = ("--threshold", 0.4, "--max_new_tokens", 9, "--rewrite_tokens", 700, "--seed", 5)
    args = refine.make_parser().parse_args([*map(str, (*chosen, *options, *decoding))])
    assert [*refine.refine_all(args, {1: QUESTIONS[0]})] == []
    answer, rewrite = SamplingParameters(9, seed=5), SamplingParameters(700, seed=5)
    asked = {"uncertainty": 0.8, "candidates": 3, "shots": 1, "batch_size": 7, "max_steps": 4, "risk_threshold": 0.4}
    assert RefinementParameters(**asked, answer=answer, rewrite=rewrite) in given


def test_a_category_that_is_switched_off_does_not_count_and_the_cache_is_kept(script, tmp_path):
    off = [f"--category_threshold={category}=off" for category in BEAVERTAILS_CATEGORIES[1:]]
    done = script("--prompt", QUESTIONS[0], *off, "--json", threshold=UNSAFE, max_steps=1, cache=tmp_path / "cache")
    assert done.returncode == 3, done.stderr
    (record,) = records(done.stdout)
    assert [*record["steps"][0]["effort"]] == [BEAVERTAILS_CATEGORIES[0]]
    assert [*(tmp_path / "cache").iterdir()] != []


@pytest.mark.parametrize("folder", ["file", "file/cache"])
def test_a_cache_that_cannot_be_kept_exits_2_with_one_line(script, tmp_path, folder):
    (tmp_path / "file").write_text("notes of mine")
    done = script("--prompt", QUESTIONS[0], cache=tmp_path / folder)
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert f"--cache {tmp_path / folder}: " in done.stderr
    assert (tmp_path / "file").read_text() == "notes of mine"


def test_a_category_that_the_detector_does_not_know_exits_2_with_one_line(script):
    done = script("--prompt", "x", category_threshold="nonsense=0.5")
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert "--category_threshold: risk_threshold names 'nonsense'" in done.stderr


def test_a_broken_jsonl_line_is_reported_with_its_number_and_the_others_are_written(script, tmp_path):
    rows = [
        json.dumps({"prompt": QUESTIONS[0]}),
        '{"prompt": ',
        "",
        '{"text": "x"}',
        json.dumps({"prompt": "Brötchen?"}),
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    output = tmp_path / "refined.jsonl"
    done = script("--input", tmp_path / "prompts.jsonl", "--output", output, "--json", threshold=SAFE)
    assert done.returncode == 2
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert "prompts.jsonl, line 2: not JSON" in errors[0]
    assert "prompts.jsonl, line 4: " in errors[1]
    written = records(output.read_text(encoding="utf-8"))
    assert {row["line"]: row["prompt"] for row in written} == {1: QUESTIONS[0], 5: "Brötchen?"}
    printed = records(done.stdout)
    assert [row["prompt"] for row in printed] == [row["prompt"] for row in written]


def test_a_text_file_gives_one_line_a_prompt_with_its_line_number(finished_run):
    done, _, output = finished_run
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    written = {row["line"]: row for row in records(output.decode("utf-8"))}
    assert {line: row["prompt"] for line, row in written.items()} == {1: QUESTIONS[0], 3: QUESTIONS[1]}
    for row in written.values():
        assert set(row) >= RECORD_KEYS
    assert done.stdout.count("Safe answer") == 2
    assert QUESTIONS[0] in done.stdout


def test_a_rerun_skips_what_is_finished(script, finished_run, tmp_path):
    _, prompts, content = finished_run
    output = tmp_path / "refined.jsonl"
    output.write_bytes(content)
    # No engine is needed any more, so none is looked for.
    done = script("--input", prompts, "--output", output, target=f"transformers:{tmp_path}/missing", threshold=SAFE)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == content
    assert done.stdout == ""


def test_a_rerun_remembers_what_did_not_converge(outcome, finished_run, tiny_detector, tmp_path):
    _, prompts, content = finished_run
    output = tmp_path / "refined.jsonl"
    output.write_bytes(content.replace(b'"converged": true', b'"converged": false', 1))
    options = ("--detector", tiny_detector, "--threshold", SAFE)
    assert outcome("--input", prompts, "--output", output, *options) == (3, "")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--threshold", UNSAFE), f"threshold {SAFE}, not {UNSAFE}"),
        (("--category_threshold", "self_harm=off"), "self_harm None, not off"),
        (("--detector", ROOT), "detector "),
    ],
)
def test_a_rerun_that_would_decide_otherwise_is_one_line_and_changes_nothing(
    outcome, finished_run, tiny_detector, tmp_path, changed, told
):
    _, prompts, content = finished_run
    output = tmp_path / "refined.jsonl"
    output.write_bytes(content)
    options = ("--detector", tiny_detector, "--threshold", SAFE, *changed)
    code, error = outcome("--input", prompts, "--output", output, *options)
    assert code == 2
    assert_one_line(error)
    assert f"{output}, line 1: decided with {told}" in error
    assert output.read_bytes() == content


def test_a_torn_last_line_is_cut_off_and_done_again(script, finished_run, tmp_path):
    _, prompts, content = finished_run
    output = tmp_path / "refined.jsonl"
    first, second = content.splitlines(keepends=True)
    output.write_bytes(first + second[:40])
    done = script("--input", prompts, "--output", output, "--json", threshold=SAFE)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(first)
    kept, redone = records(output.read_text(encoding="utf-8"))
    assert kept == json.loads(first)
    for key in ("line", "prompt", "response", "converged", "calls", "tokens"):
        assert redone[key] == json.loads(second)[key]
    # Alone in its batch now, so the last digits may differ.
    assert redone["steps"][0]["risk"] == pytest.approx(json.loads(second)["steps"][0]["risk"], rel=1e-4)
    assert [row["prompt"] for row in records(done.stdout)] == [redone["prompt"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f'{{"prompt": "another prompt", "line": 1, {DECIDED}}}\n', "from another input"),
        (f'{{"prompt": "{QUESTIONS[0]}", "line": 2, {DECIDED}}}\n', "from another input"),
        (f'{{"prompt": "another prompt", "line": 1, {DECIDED}}}\n{{"line": 3, "pro', "from another input"),
        (f'{{"prompt": "x", "line": [1], {DECIDED}}}\n', "not written by refine.py"),
        (f'{{"line": 1, "prompt": "{QUESTIONS[0]}"}}\n', "not written by refine.py"),
        ("notes of mine\n", "not written by refine.py"),
        ("[1]\n", "not written by refine.py"),
        ("my only notes", "not written by refine.py"),
        ("\udcff\n", "not written by refine.py"),
    ],
)
def test_an_output_of_another_origin_is_refused_and_left_unchanged(outcome, finished_run, tmp_path, content, told):
    _, prompts, _ = finished_run
    output = tmp_path / "refined.jsonl"
    content = content.encode("utf-8", errors="surrogateescape")
    output.write_bytes(content)
    code, error = outcome("--input", prompts, "--output", output, "--detector", tmp_path / "missing")
    assert output.read_bytes() == content
    assert code == 2
    assert_one_line(error)
    assert str(output) in error
    assert told in error


def test_an_output_that_is_the_input_is_refused_and_left_unchanged(outcome, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(QUESTIONS[0])
    code, _ = outcome("--input", prompts, "--output", prompts, "--detector", tmp_path / "missing")
    assert prompts.read_text() == QUESTIONS[0]
    assert code == 2


@pytest.mark.parametrize(
    "arguments, named",
    [
        ([], "--prompt --input"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", " \n"], "--prompt is empty"),
        (["--prompt", "half a \ud800 letter"], "--prompt is empty or not text"),
        (["--prompt", "x", "--input", "x.txt"], "not allowed with argument"),
        (["--prompt", "x", "--threshold", "1.5"], "--threshold"),
        (["--prompt", "x", "--threshold", "0"], "--threshold"),
        (["--prompt", "x", "--threshold", "nan"], "--threshold"),
        (["--prompt", "x", "--threshold", "high"], "--threshold"),
        (["--prompt", "x", "--max_steps", "-1"], "--max_steps must be at least 0, got -1"),
        (["--prompt", "x", "--max_steps", "two"], "--max_steps"),
        (["--prompt", "x", "--max_new_tokens", "0"], "--max_new_tokens must be at least 1, got 0"),
        (["--prompt", "x", "--rewrite_tokens", "0"], "--rewrite_tokens must be at least 1, got 0"),
        (["--prompt", "x", "--unknown"], "--unknown"),
        *(
            (["--prompt", "x", "--category_threshold", value], "--category_threshold")
            for value in ("", "self_harm", "self_harm=", "self_harm=1", "self_harm=0", "self_harm=nan", "self_harm=on")
        ),
        *((["--prompt", "x", "--uncertainty", value], "--uncertainty") for value in ("0", "1", "nan", "high")),
        (["--prompt", "x", "--candidates", "0"], "--candidates must be at least 1, got 0"),
        (["--prompt", "x", "--candidates", "1.5"], "--candidates"),
        (["--prompt", "x", "--shots", "-1"], "--shots must be at least 0, got -1"),
        (["--prompt", "x", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--prompt", "x", "--batch_size", "many"], "--batch_size"),
        (["--prompt", "x", "--seed", "-1"], "--seed must lie between 0 and"),
    ],
)
def test_an_argument_that_no_run_could_use_exits_2_with_one_line(outcome, arguments, named):
    code, error = outcome(*arguments)
    assert code == 2
    assert_one_line(error)
    assert named in error


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("missing.txt", None, "No such file"),
        ("prompts.csv", b"prompt\nx\n", "expected a .txt or .jsonl file"),
        ("prompts", b"x\n", "expected a .txt or .jsonl file"),
        ("prompts.txt", b"\xff\xfe\xff\n", "utf-8"),
    ],
)
def test_an_input_that_cannot_be_read_exits_2_with_one_line_that_names_it(outcome, tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, error = outcome("--input", tmp_path / name)
    assert code == 2
    assert_one_line(error)
    assert f"--input {tmp_path / name}: " in error
    assert reason in error


def test_an_input_that_is_a_folder_exits_2_with_one_line(outcome, tmp_path):
    (tmp_path / "prompts.txt").mkdir()
    code, error = outcome("--input", tmp_path / "prompts.txt")
    assert code == 2
    assert_one_line(error)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("[1]", "an object"),
        ('{"prompt": 3}', "an object"),
        ('{"prompt": " "}', "an object"),
        ('{"prompt": "\\ud800"}', "an object"),
        ("{'prompt': 'x'}", "not JSON"),
        pytest.param("[" * 100_000, "JSON"),
        pytest.param('\ufeff{"prompt": 3}', "an object"),
    ],
)
def test_a_line_without_a_prompt_is_reported_with_its_number(outcome, tmp_path, line, reason):
    (tmp_path / "prompts.jsonl").write_text(f"{line}\n", encoding="utf-8")
    code, error = outcome("--input", tmp_path / "prompts.jsonl")
    assert code == 2
    assert_one_line(error)
    assert f"{tmp_path / 'prompts.jsonl'}, line 1: " in error
    assert reason in error


@pytest.mark.parametrize("output", ["missing/refined.jsonl", "."])
def test_an_output_that_cannot_be_written_exits_2_with_one_line(outcome, tmp_path, output):
    code, error = outcome("--prompt", "x", "--output", tmp_path / output)
    assert code == 2
    assert_one_line(error)
    assert f"--output {tmp_path / output}: " in error
    assert list(tmp_path.iterdir()) == []


def test_a_detector_of_another_kind_exits_2_with_one_line(script, tiny_encoder):
    done = script("--prompt", "x", detector=tiny_encoder)
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert f"{tiny_encoder}: a 'bert' checkpoint, not Lance's" in done.stderr
    assert done.stdout == ""


def test_a_missing_detector_exits_2_with_one_line(script, tmp_path):
    done = script("--prompt", "x", detector=tmp_path / "missing")
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert f"{tmp_path / 'missing'}: no Lance checkpoint" in done.stderr


@pytest.mark.parametrize("config", ["{}", '{"model_type": "martian"}'])
def test_a_detector_of_no_known_kind_exits_2_with_one_line(outcome, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    code, error = outcome("--prompt", "x", "--detector", tmp_path)
    assert code == 2
    assert_one_line(error)
    assert str(tmp_path) in error


def test_an_unknown_engine_exits_2_with_one_line(script):
    done = script("--prompt", "x", target="nonsense")
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert "'nonsense' names no engine: use 'embedded', 'transformers:MODEL'" in done.stderr
