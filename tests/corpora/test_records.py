import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from corpora.records import SUFFIXES, CorpusError, is_local, json_column, optional_text_column, read_rows, text_column

ROWS = [
    {"prompt": 'Say "hello", please.', "note": "two\nlines"},
    {"prompt": "Wo wächst Löwenzahn?", "note": "meadow"},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows_with_their_places(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    write(path, ROWS)
    assert list(read_rows(path)) == [(f"{path}, row 1", ROWS[0]), (f"{path}, row 2", ROWS[1])]


def test_a_path_may_be_text(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    assert [row for _, row in read_rows(str(tmp_path / "rows.jsonl"))] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "{}", r"rows\.txt: expected a file that ends in \.jsonl, \.json, \.csv, \.parquet"),
        ("rows", "{}", r"rows: expected a file that ends in"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"rows\.jsonl, row 2: not JSON"),
        ("rows.jsonl", '{"prompt": "a"}\n["a"]\n', r"rows\.jsonl, row 2: expected an object .*, got list"),
        ("rows.json", '[{"prompt": "a"}', r"rows\.json: not JSON"),
        ("rows.jsonl", '{"prompt": ' + "1" * 5000 + "}\n", r"rows\.jsonl, row 1: not JSON"),
        ("rows.json", '{"prompt": "a"}', r"rows\.json: expected a JSON list"),
        ("rows.json", '[{"prompt": "a"}, "b"]', r"rows\.json, row 2: expected an object .*, got str"),
        ("rows.parquet", "prompt", r"rows\.parquet: can't be read"),
        ("rows.jsonl", "\n", r"rows\.jsonl: no rows"),
        ("rows.json", "[]", r"rows\.json: no rows"),
        ("rows.csv", "prompt\n", r"rows\.csv: no rows"),
    ],
)
def test_an_unreadable_file_is_named_with_its_row(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        list(read_rows(tmp_path / name))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"absent\.csv: no such file"):
        list(read_rows(tmp_path / "absent.csv"))


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(CorpusError, match=r"folder\.json: no such file"):
        list(read_rows(tmp_path / "folder.json"))


def test_a_source_is_local_by_its_ending_or_because_it_exists(tmp_path):
    assert is_local("absent.jsonl")
    assert is_local(str(tmp_path))
    assert not is_local("PKU-Alignment/BeaverTails")


def test_text_comes_back_as_it_stands():
    assert text_column("f, row 1", {"prompt": " padded "}, "prompt") == " padded "


@pytest.mark.parametrize("row", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": " \n\t"}])
def test_a_needed_text_must_be_there_and_not_blank(row):
    with pytest.raises(CorpusError, match=r"f, row 7: column 'prompt' is missing or empty"):
        text_column("f, row 7", row, "prompt")


@pytest.mark.parametrize("read", [text_column, optional_text_column])
def test_text_must_be_text(read):
    with pytest.raises(CorpusError, match=r"f, row 7: column 'prompt' must be text, got int"):
        read("f, row 7", {"prompt": 3}, "prompt")


def test_an_optional_text_may_be_absent_null_or_blank():
    values = [optional_text_column("f, row 1", row, "response") for row in ({}, {"response": None}, {"response": ""})]
    assert values == [None, None, ""]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[0, 1]", [0, 1]),
        ([0, 1], [0, 1]),
        ("true", True),
        ("True", True),
        ("False", False),
        ("null", None),
        (0.5, 0.5),
    ],
)
def test_a_json_column_is_the_same_as_text_and_as_value(value, expected):
    assert json_column("f, row 1", {"labels": value}, "labels") == expected


def test_an_absent_json_column_is_none():
    assert json_column("f, row 1", {}, "labels") is None


def test_text_that_is_no_json_is_named_with_its_row():
    with pytest.raises(CorpusError, match=r"f, row 7: column 'labels' must hold JSON, got '0;1'"):
        json_column("f, row 7", {"labels": "0;1"}, "labels")
