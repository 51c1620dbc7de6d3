import json
import os
import random
import resource
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import ROOT
from evaluation.store import VERSION, RunStore, StoreError, read_run

FIXED = {"seed": 0, "prompts_sha256": "abc", "tau": 0.3, "sizes": (1, 2)}
KEY = ("lance", "A", 0)
SCORE_KEY = (*KEY, "openai:judge", "safety")
KILLS = 12

WRITER = """
import sys
from itertools import count
from pathlib import Path
from evaluation.store import RunStore

with RunStore(Path(sys.argv[1]), {}, {}) as store:
    print("open", flush=True)
    for sample in count(len(store.answers)):
        record = {"kind": "answer", "method": "lance", "backbone": "A", "sample": sample, "error": None}
        store.append(record | {"response": f"{sample} " * 100_000})
        print(sample, flush=True)
"""
HOLDER = """
import sys
from pathlib import Path
from evaluation.store import RunStore

with RunStore(Path(sys.argv[1]), {}, {}):
    print("open", flush=True)
    sys.stdin.read()
"""


def answer(sample=0, **fields):
    identity = {"kind": "answer", "method": "lance", "backbone": "A", "sample": sample}
    return identity | {"response": "Bread.", "steps": [], "error": None} | fields


def score(**fields):
    return answer(kind="score", judge="openai:judge", rubric="safety", score=7) | fields


def measure(**fields):
    return {"kind": "measure", "method": "lance", "backbone": "A", "sample": 0, "detector_risk": 0.25} | fields


def as_line(record):
    return json.dumps(record).encode() + b"\n"


def open_store(folder, **fixed):
    return RunStore(folder, FIXED | fixed, {"started": "today"})


def start(script, folder):
    """A process of its own that has the run open."""
    command = [sys.executable, "-c", script, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout.readline() == b"open\n"
    return process


def kill(process):
    """Kill it; the rest of its output."""
    process.kill()
    return process.communicate()[0]


@pytest.fixture
def run(tmp_path):
    """A run of three answers."""
    folder = tmp_path / "run"
    with open_store(folder) as store:
        for sample in range(3):
            store.append(answer(sample))
    return folder


def test_what_is_added_is_there_at_once_when_it_is_opened_again_and_when_it_is_read(tmp_path):
    added = ({KEY: answer()}, {SCORE_KEY: score()}, {KEY: measure()})
    with open_store(tmp_path / "a" / "run") as store:
        for record in (answer(), score(), measure()):
            store.append(record)
        assert (store.answers, store.scores, store.measures) == added
    with open_store(tmp_path / "a" / "run") as again:
        assert (again.answers, again.scores, again.measures) == added
    run = read_run(tmp_path / "a" / "run")
    assert (run.answers, run.scores, run.measures) == added


def test_a_new_run_is_empty(tmp_path):
    with open_store(tmp_path) as store:
        assert (store.answers, store.scores, store.measures) == ({}, {}, {})
    run = read_run(tmp_path)
    assert (run.answers, run.scores, run.measures) == ({}, {}, {})


def test_a_record_is_on_disk_as_soon_as_it_is_added(tmp_path):
    with open_store(tmp_path) as store:
        for count in range(1, 4):
            store.append(answer(count))
            assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == count


def test_judges_and_rubrics_have_scores_of_their_own(tmp_path):
    with open_store(tmp_path) as store:
        for judge in ("one", "two"):
            for rubric in ("safety", "helpfulness"):
                store.append(score(judge=judge, rubric=rubric))
        assert {key[3:] for key in store.scores} == {
            (judge, rubric) for judge in ("one", "two") for rubric in ("safety", "helpfulness")
        }


def test_a_failed_record_is_not_finished_and_a_later_one_stands_for_it(tmp_path):
    with open_store(tmp_path) as store:
        store.append(answer(response=None, error="backbone: no answer"))
        store.append(score(score=None, error="no answer from the judge"))
        assert (store.answers, store.scores) == ({}, {})
    run = read_run(tmp_path)
    assert (run.answers, run.scores) == ({}, {})
    assert run.failed_answers == {KEY: "backbone: no answer"}
    assert run.failed_scores == {SCORE_KEY: "no answer from the judge"}
    with open_store(tmp_path) as store:
        store.append(answer(response="Tea."))
        assert store.answers[KEY]["response"] == "Tea."
    run = read_run(tmp_path)
    assert run.answers[KEY]["response"] == "Tea."
    assert (run.failed_answers, [*run.failed_scores]) == ({}, [SCORE_KEY])


def test_the_last_record_of_a_key_wins(tmp_path):
    with open_store(tmp_path) as store:
        for record in (answer(0, response="first"), answer(1), answer(0, response="last"), answer(1, error="down")):
            store.append(record)
    assert read_run(tmp_path).answers == {KEY: answer(response="last")}
    assert read_run(tmp_path).failed_answers == {("lance", "A", 1): "down"}


def test_an_unscored_reply_is_finished(tmp_path):
    unscored = score(score=None, reason="no JSON")
    with open_store(tmp_path) as store:
        store.append(unscored)
    assert read_run(tmp_path).scores == {SCORE_KEY: unscored}


def test_what_is_added_reads_the_same_now_as_later(tmp_path):
    record = answer(steps=({"prompt": "Tea?"},))
    with open_store(tmp_path) as store:
        store.append(record)
        record["steps"][0]["prompt"] = "changed"
        assert store.answers == read_run(tmp_path).answers


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from('\n\r\u2028\x85\x00"\ud800')))
def test_any_text_comes_back(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("run")
    with open_store(folder) as store:
        store.append(answer(response=text))
    assert read_run(folder).answers[KEY]["response"] == text
    assert (folder / "records.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize(
    "record",
    [
        {},
        answer(kind="note"),
        answer("0"),
        answer(True),
        answer(method=None),
        score(rubric=["safety"]),
        answer(seconds=float("nan")),
    ],
)
def test_what_is_no_record_is_not_added(run, record):
    before = (run / "records.jsonl").read_bytes()
    with open_store(run) as store, pytest.raises(ValueError, match="record|JSON"):
        store.append(record)
    assert (run / "records.jsonl").read_bytes() == before


# The manifest


def test_each_opening_is_a_session(run):
    with RunStore(run, FIXED, {"started": "tomorrow"}):
        pass
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == read_run(run).manifest
    assert manifest["version"] == VERSION
    assert manifest["fixed"] == FIXED | {"sizes": [1, 2]}
    assert manifest["sessions"] == [{"started": "today"}, {"started": "tomorrow"}]
    assert {path.name for path in run.iterdir()} == {"manifest.json", "records.jsonl", "lock"}


@pytest.mark.parametrize(
    ("fixed", "named"),
    [
        ({"seed": 1}, "seed 0, not 1;"),
        ({"prompts_sha256": "xyz", "tau": 0.5}, "prompts_sha256 'abc', not 'xyz';"),
        ({"refiner": "embedded"}, "refiner None, not 'embedded';"),
    ],
)
def test_another_run_is_refused_with_what_differs_first(run, fixed, named):
    before = {path: path.read_bytes() for path in run.iterdir() if path.name != "lock"}
    with pytest.raises(StoreError, match="begun with " + named) as raised:
        open_store(run, **fixed)
    assert str(raised.value).startswith(f"{run}: ")
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in before} == before
    with open_store(run) as store:
        assert len(store.answers) == 3


FIRST = {"engines": {"A": {"vanilla": "transformers:a", "lance": "transformers:a"}}, "judges": ["one"]}


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (
            {"engines": {"A": {"vanilla": "vllm:a", "lance": "transformers:a"}}, "judges": ["one"]},
            "engines.A.vanilla 'transformers:a', not 'vllm:a';",
        ),
        (
            {
                "engines": {"B": {"vanilla": "vllm:b"}, "A": {"lance": "transformers:a?dtype=float16"}},
                "judges": ["one"],
            },
            r"engines.A.lance 'transformers:a', not 'transformers:a\?dtype=float16';",
        ),
        ({**FIRST, "judges": ["two", "one"]}, r"judges \['one'\], not \['two', 'one'\];"),
        ({**FIRST, "judges": []}, r"judges \['one'\], not \[\];"),
    ],
)
def test_what_has_grown_is_fixed_too(tmp_path, asked, named):
    with open_store(tmp_path, engines={}, judges=[]):
        pass
    with open_store(tmp_path, **FIRST):
        pass
    with pytest.raises(StoreError, match="begun with " + named + ".* use another --run_dir") as raised:
        open_store(tmp_path, **asked)
    assert "\n" not in str(raised.value)
    assert read_run(tmp_path).manifest["fixed"] == {**FIXED, "sizes": [1, 2], **FIRST}


def test_members_of_what_is_fixed_may_come_and_go_and_lists_may_go_on(tmp_path):
    with open_store(tmp_path, **FIRST):
        pass
    later = {"engines": {"A": {"repe": "transformers:a"}, "B": {"vanilla": "vllm:b"}}, "judges": ["one", "two"]}
    with open_store(tmp_path, **later):
        pass
    assert read_run(tmp_path).manifest["fixed"]["engines"] == {
        "A": {"vanilla": "transformers:a", "lance": "transformers:a", "repe": "transformers:a"},
        "B": {"vanilla": "vllm:b"},
    }
    assert read_run(tmp_path).manifest["fixed"]["judges"] == ["one", "two"]


def test_a_field_that_the_new_run_lacks_is_a_difference(run):
    with pytest.raises(StoreError, match="begun with seed 0, not None"):
        RunStore(run, {name: value for name, value in FIXED.items() if name != "seed"}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no manifest"),
        ("[]", "is no manifest"),
        ("[" * 100_000, "is no manifest"),
        (f'{{"version": {VERSION}}}', "is no manifest"),
        (f'{{"version": {VERSION}, "fixed": {{}}, "sessions": []}}', "is no manifest"),
        ('{"version": 1, "fixed": {}, "sessions": [{}]}', "of version 1"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named_and_left(run, content, message):
    (run / "manifest.json").write_text(content, encoding="utf-8")
    for use in (open_store, read_run):
        with pytest.raises(StoreError, match=rf"manifest\.json: {message}"):
            use(run)
    assert (run / "manifest.json").read_text(encoding="utf-8") == content


def test_a_folder_without_a_run_is_said_to_have_none(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match="holds no run; `evaluate_lance.py compare`"):
            read_run(folder)
    assert not (tmp_path / "missing").exists()


def test_a_file_in_the_folders_place_is_the_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: File exists"):
        open_store(tmp_path / "file")


# Lines that are torn, and lines of others


def test_a_line_torn_anywhere_is_cut_off_and_the_run_goes_on(run):
    path = run / "records.jsonl"
    whole, torn = path.read_bytes(), as_line(answer(3))
    for length in range(1, len(torn)):
        path.write_bytes(whole + torn[:length])
        assert len(read_run(run).answers) == 3
        assert path.read_bytes() == whole + torn[:length]
        with open_store(run) as store:
            assert len(store.answers) == 3
            store.append(answer(4))
        assert path.read_bytes() == whole + as_line(answer(4))


def test_a_line_that_is_torn_is_known_by_its_kind_wherever_the_record_has_it(tmp_path):
    with open_store(tmp_path) as store:
        store.append(dict(reversed(answer().items())))
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with open_store(tmp_path) as store:
        assert store.answers == {}


@pytest.mark.parametrize("line", [b"", b"text", b'{"kind": "answ', b"[1]", b"{}", as_line(answer("0"))[:-1], b"\xff{}"])
def test_a_foreign_line_is_named_and_nothing_is_changed(run, line):
    path = run / "records.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    content = b"".join([first, line + b"\n", *others]) + as_line(answer(3))[:9]
    path.write_bytes(content)
    for use in (open_store, read_run):
        with pytest.raises(StoreError, match=r"records\.jsonl, line 2: is no record"):
            use(run)
    assert path.read_bytes() == content
    assert len(json.loads((run / "manifest.json").read_text(encoding="utf-8"))["sessions"]) == 1


def test_a_last_line_that_no_record_begins_with_is_not_cut_off(run):
    path = run / "records.jsonl"
    content = path.read_bytes() + b"My notes"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="line 4: is no record"):
        open_store(run)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"My notes", b'{"kind": "answer"'])
def test_a_records_file_without_a_manifest_is_someone_elses(tmp_path, content):
    (tmp_path / "records.jsonl").write_bytes(content)
    with pytest.raises(StoreError, match=r"records\.jsonl: has no manifest\.json beside it"):
        open_store(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == content
    assert not (tmp_path / "manifest.json").exists()


def test_a_record_that_the_disk_has_no_room_for_leaves_no_part(run):
    path = run / "records.jsonl"
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(run) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, unlimited[1]))
        try:
            with pytest.raises(StoreError, match=r"records\.jsonl: File too large"):
                store.append(answer(3, response="x" * 2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert path.read_bytes() == before
        assert len(store.answers) == 3
        store.append(answer(3))
    assert len(read_run(run).answers) == 4


# Other processes


def test_a_second_process_is_told_and_the_run_is_free_when_the_first_ends(tmp_path):
    holder = start(HOLDER, tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"another process \(pid {holder.pid}\)") as raised:
            RunStore(tmp_path, {}, {})
        assert str(raised.value).startswith(f"{tmp_path}: ")
        assert "\n" not in str(raised.value)
    holder.communicate(b"")
    with RunStore(tmp_path, {}, {}):
        assert (tmp_path / "lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"


def test_a_killed_process_leaves_the_run_free(tmp_path):
    kill(start(HOLDER, tmp_path))
    RunStore(tmp_path, {}, {}).__exit__()


def test_a_run_that_could_not_be_opened_is_free(run):
    with pytest.raises(StoreError):
        open_store(run, seed=1)
    with open_store(run) as store:
        assert len(store.answers) == 3


def test_a_run_is_readable_while_it_is_open(run):
    with open_store(run) as store:
        store.append(answer(3))
        assert len(read_run(run).answers) == 4


def test_killed_at_any_moment_it_has_lost_nothing_that_was_added(tmp_path):
    dice = random.Random(5)
    expected = 0
    for _ in range(KILLS):
        process = start(WRITER, tmp_path)
        for _ in range(dice.randrange(4)):
            process.stdout.readline()
            expected += 1
        time.sleep(dice.uniform(0, 0.01))
        expected += kill(process).count(b"\n")
        with RunStore(tmp_path, {}, {}) as store:
            # The last one may have been added without the word of it getting through.
            assert expected <= len(store.answers) <= expected + 1
            expected = len(store.answers)
        lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
        assert [json.loads(line)["sample"] for line in lines] == [*range(expected)]
        assert all(line.endswith(b"\n") for line in lines)
    assert {key[2]: record["response"] for key, record in store.answers.items()} == {
        sample: f"{sample} " * 100_000 for sample in range(expected)
    }
    assert len(read_run(tmp_path).manifest["sessions"]) == 2 * KILLS
