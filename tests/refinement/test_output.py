import json
from itertools import product

import pytest

from refinement.output import OutputError, OutputFile
from refinement.trace import Refinement

PROMPTS = {1: "How do I bake bread?", 3: "Brötchen\u2028?", 4: "Tea?"}
DECISION = {"threshold": 0.3, "uncertainty": None}


def record(line, **fields):
    return {"line": line, **Refinement(PROMPTS[line]).as_record()} | {"converged": True} | fields


def as_line(row):
    return (json.dumps(row | {"decision": DECISION}, ensure_ascii=False) + "\n").encode("utf-8")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "refined.jsonl"


def test_what_is_written_is_finished_when_the_file_is_opened_again(path):
    with OutputFile(path, PROMPTS, DECISION) as output:
        assert output.finished == {}
        output.write(record(3))
        output.write(record(1, converged=False))
    again = OutputFile(path, PROMPTS, DECISION)
    assert [*again.finished] == [3, 1]
    assert {line: row["converged"] for line, row in again.finished.items()} == {3: True, 1: False}
    assert path.read_bytes() == as_line(record(3)) + as_line(record(1, converged=False))


def test_a_record_is_on_disk_as_soon_as_it_is_written(path):
    output = OutputFile(path, PROMPTS, DECISION)
    for count, line in enumerate(PROMPTS, start=1):
        output.write(record(line))
        assert path.read_bytes().count(b"\n") == count


@pytest.mark.parametrize("content", [b"", as_line(record(1)), as_line(record(1, error="target: no answer"))])
def test_a_second_process_is_told_that_the_file_is_in_use(path, content):
    path.write_bytes(content)
    with OutputFile(path, PROMPTS, DECISION) as output:
        with pytest.raises(OutputError, match=f"--output {path}: another process writes to it"):
            OutputFile(path, PROMPTS, DECISION)
        output.write(record(3))
    assert 3 in OutputFile(path, PROMPTS, DECISION).finished


def test_without_a_path_nothing_is_kept():
    output = OutputFile(None, PROMPTS, DECISION)
    output.write(record(1))
    assert output.finished == {}


def test_a_failed_record_is_dropped_so_that_it_is_tried_again(path):
    rows = [record(1), record(3, converged=False, error="target: no answer"), record(4)]
    path.write_bytes(b"".join(map(as_line, rows)))
    with OutputFile(path, PROMPTS, DECISION) as output:
        assert set(output.finished) == {1, 4}
        assert path.read_bytes() == as_line(rows[0]) + as_line(rows[2])
        output.write(record(3))
    assert set(OutputFile(path, PROMPTS, DECISION).finished) == {1, 3, 4}
    assert [*path.parent.iterdir()] == [path]


def test_a_file_of_failed_records_alone_becomes_empty(path):
    path.write_bytes(as_line(record(1, error="target: no answer")))
    assert OutputFile(path, PROMPTS, DECISION).finished == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kept, cut", [*product([0, 1, 2], [1, 5, 9, 10, 40, -1])])
def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path, kept, cut):
    whole = b"".join(as_line(record(line)) for line in list(PROMPTS)[:kept])
    path.write_bytes(whole + as_line(record(4))[:cut])
    assert [*OutputFile(path, PROMPTS, DECISION).finished] == list(PROMPTS)[:kept]
    assert path.read_bytes() == whole


def test_a_line_torn_in_the_middle_of_a_letter_is_cut_off(path):
    torn = as_line(record(3))
    path.write_bytes(torn[: torn.index("ö".encode()) + 1])
    assert OutputFile(path, PROMPTS, DECISION).finished == {}
    assert path.read_bytes() == b""


def test_a_torn_line_after_a_failed_record_goes_too(path):
    path.write_bytes(as_line(record(1)) + as_line(record(3, error="target: no answer")) + as_line(record(4))[:30])
    assert [*OutputFile(path, PROMPTS, DECISION).finished] == [1]
    assert path.read_bytes() == as_line(record(1))


@pytest.mark.parametrize("first", [b"", as_line(record(1)), as_line(record(1, error="target: no answer"))])
@pytest.mark.parametrize(
    "fields", [{"prompt": "another prompt"}, {"line": 2}, {"prompt": "another prompt", "error": "target: no answer"}]
)
def test_a_file_of_another_input_is_refused_and_left_as_it_was(path, first, fields):
    content = first + as_line(record(1) | fields)
    path.write_bytes(content)
    with pytest.raises(OutputError, match="from another input"):
        OutputFile(path, PROMPTS, DECISION)
    assert path.read_bytes() == content


def test_a_link_stays_one_and_its_file_is_cleared_of_what_failed(path):
    real = path.with_name("real.jsonl")
    real.write_bytes(as_line(record(1)) + as_line(record(3, error="target: no answer")))
    path.symlink_to(real)
    OutputFile(path, PROMPTS, DECISION)
    assert path.is_symlink()
    assert real.read_bytes() == as_line(record(1))


@pytest.mark.parametrize("first", [b"", as_line(record(1)), as_line(record(1, error="target: no answer"))])
@pytest.mark.parametrize(
    "content",
    [
        b"notes of mine\n",
        b"my only notes",
        b"[1]\n",
        b"3\n",
        b"\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"line": 1, "prompt": "How do I bake bread?", "converged": true, "decision": {}}\n',
        b'{"line": [1], "prompt": "How do I bake bread?", "converged": true, "error": null, "decision": {}}\n',
        b'{"line": "x", "prompt": "How do I bake bread?", "converged": true, "error": null, "decision": {}}\n',
        b'{"line": 1, "prompt": "How do I bake bread?", "converged": true, "error": null}\n',
    ],
)
def test_a_file_of_another_origin_is_refused_and_left_as_it_was(path, first, content):
    path.write_bytes(first + content)
    with pytest.raises(OutputError) as refused:
        OutputFile(path, PROMPTS, DECISION)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == first + content


def test_the_line_that_is_not_ours_is_named(path):
    path.write_bytes(as_line(record(1)) + b"{}\n")
    with pytest.raises(OutputError, match="line 2: not written by refine.py; name a new file"):
        OutputFile(path, PROMPTS, DECISION)


@pytest.mark.parametrize(
    ("asked", "changed"),
    [
        ({"threshold": 0.1, "uncertainty": None}, "decided with threshold 0.3, not 0.1"),
        ({"threshold": 0.3, "uncertainty": 0.8}, "decided with uncertainty None, not 0.8"),
        (DECISION | {"self_harm": 0.2}, "decided with self_harm None, not 0.2"),
        (DECISION | {"self_harm": "off"}, "decided with self_harm None, not off"),
    ],
)
def test_a_file_of_another_decision_is_refused_and_left_as_it_was(path, asked, changed):
    path.write_bytes(as_line(record(1)))
    with pytest.raises(OutputError, match=f"--output {path}, line 1: {changed}; name a new file"):
        OutputFile(path, PROMPTS, asked)
    assert path.read_bytes() == as_line(record(1))


@pytest.mark.parametrize("name", [".", "missing/refined.jsonl"])
def test_a_path_that_cannot_be_written_is_one_error_that_names_it(tmp_path, name):
    with pytest.raises(OutputError, match=f"--output {tmp_path / name}: "):
        OutputFile(tmp_path / name, PROMPTS, DECISION)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_can_no_longer_be_written_is_one_error_that_names_it(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    output = OutputFile(folder / "refined.jsonl", PROMPTS, DECISION)
    (folder / "refined.jsonl").unlink()
    folder.rmdir()
    with pytest.raises(OutputError, match=f"--output {folder / 'refined.jsonl'}: "):
        output.write(record(1))
