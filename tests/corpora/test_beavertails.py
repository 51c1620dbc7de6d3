import csv
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from corpora import sources
from corpora.beavertails import FEATURES, load_beavertails
from corpora.records import SUFFIXES, CorpusError
from detector import detector_class

PAIRS = Path(__file__).parents[1] / "data" / "pairs.jsonl"
CATEGORIES = ("theft", "violence")
ROWS = [
    {"prompt": "Is it fine to steal?", "response": "Yes, take it.", "labels": [1, 0], "labels_mean": [0.75, 0.25]},
    {"prompt": "Is it fine to fight?", "response": "Yes, hit him.", "labels": [0, 1], "labels_mean": None},
    {"prompt": "Is it fine to sing?", "response": "Of course,\nsing.", "labels": [0, 0], "labels_mean": [0.0, 0.25]},
]


def as_category(row):
    others = {column: value for column, value in row.items() if column != "labels"}
    return others | {"category": {name: bool(label) for name, label in zip(CATEGORIES, row["labels"], strict=True)}}


def write(path, rows):
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        cells = [
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in r.items()} for r in rows
        ]
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    return str(path)


def load(path, rows):
    return load_beavertails(write(path, rows), CATEGORIES)


def test_labels_and_their_means_are_read_row_by_row(tmp_path):
    dataset = load(tmp_path / "pairs.jsonl", ROWS)
    assert dataset.features == FEATURES
    assert dataset["prompt"][:] == [row["prompt"] for row in ROWS]
    assert dataset["response"][:] == [row["response"] for row in ROWS]
    assert dataset["labels"][:] == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert dataset["labels_mean"][:] == [[0.75, 0.25], [0.0, 1.0], [0.0, 0.25]]


@pytest.mark.parametrize("rows", [ROWS, [as_category(row) for row in ROWS]], ids=["labels", "category"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_and_column_form_gives_the_same_data_set(tmp_path, suffix, rows):
    expected = load(tmp_path / "reference.jsonl", ROWS)
    dataset = load(tmp_path / f"pairs{suffix}", rows)
    assert dataset.features == expected.features
    assert dataset.to_list() == expected.to_list()


def test_an_empty_csv_cell_is_an_absent_value(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,response,labels,labels_mean\nMay I?,Yes.,"[1, 0]",\n', encoding="utf-8")
    assert load_beavertails(str(path), CATEGORIES)["labels_mean"][:] == [[1.0, 0.0]]


def test_the_order_of_the_category_object_is_of_no_account(tmp_path):
    row = as_category(ROWS[0])
    turned = row | {"category": dict(reversed(row["category"].items()))}
    assert load(tmp_path / "pairs.jsonl", [turned])["labels"][0] == [1.0, 0.0]


def test_labels_stand_before_category(tmp_path):
    both = as_category(ROWS[0]) | {"labels": [0, 1]}
    assert load(tmp_path / "pairs.jsonl", [both])["labels"][0] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "column 'prompt' is missing or empty"),
        ({"prompt": "  "}, "column 'prompt' is missing or empty"),
        ({"response": None}, "column 'response' is missing"),
        ({"response": 5}, "column 'response' must be text, got int"),
        ({"labels": None}, r"needs a column 'labels' \(a list\) or 'category' \(an object of booleans\)"),
        ({"labels": [1]}, "'labels' must be a list of 2 labels, got 1"),
        ({"labels": [1, 0, 0]}, "'labels' must be a list of 2 labels, got 3"),
        ({"labels": 1}, "'labels' must be a list of 2 labels, got int"),
        ({"labels": [1.5, 0]}, r"each of 'labels' must lie in \[0, 1\]"),
        ({"labels": [-1, 0]}, r"each of 'labels' must lie in \[0, 1\]"),
        ({"labels": ["1", "0"]}, r"each of 'labels' must lie in \[0, 1\]"),
        ({"labels": [float("nan"), 0]}, r"each of 'labels' must lie in \[0, 1\]"),
        ({"labels_mean": [0.5]}, "'labels_mean' must be a list of 2 labels, got 1"),
        ({"labels_mean": [0.5, 2]}, r"each of 'labels_mean' must lie in \[0, 1\]"),
        ({"labels": None, "category": [True, False]}, "needs a column 'labels'"),
        ({"labels": None, "category": {"theft": True}}, "must hold the 2 categories; 'violence' doesn't match"),
        (
            {"labels": None, "category": {"theft": True, "violence": False, "gossip": True}},
            "must hold the 2 categories; 'gossip' doesn't match",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_file(tmp_path, change, message):
    with pytest.raises(CorpusError, match=rf"bad\.jsonl, row 2: .*{message}"):
        load(tmp_path / "bad.jsonl", [ROWS[0], ROWS[1] | change])


def test_an_absent_column_is_named(tmp_path):
    without = {column: value for column, value in ROWS[0].items() if column != "response"}
    with pytest.raises(CorpusError, match=r"bad\.jsonl, row 1: column 'response' is missing"):
        load(tmp_path / "bad.jsonl", [without])


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"empty\.jsonl: no rows"):
        load(tmp_path / "empty.jsonl", [])


def test_a_missing_file_is_not_looked_for_on_the_hub():
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file"):
        load_beavertails("nowhere.jsonl", CATEGORIES)


@pytest.fixture
def hub(monkeypatch):
    def put(rows):
        splits = {"30k_test": Dataset.from_list(rows)}
        monkeypatch.setattr(sources, "load_dataset", lambda name, split: {"someone/pairs": splits}[name][split])

    return put


def test_a_hub_data_set_is_read_in_upstreams_columns(tmp_path, hub):
    hub([{**as_category(row), "is_safe": not any(row["labels"])} for row in ROWS])
    dataset = load_beavertails("someone/pairs", CATEGORIES, split="30k_test")
    assert dataset.to_list() == load(tmp_path / "reference.jsonl", ROWS).to_list()


def test_a_split_of_the_hub_without_rows_is_refused(hub):
    hub([])
    with pytest.raises(CorpusError, match=r"someone/pairs \(30k_test\): no rows"):
        load_beavertails("someone/pairs", CATEGORIES, split="30k_test")


def test_a_bad_row_of_the_hub_is_named_with_its_split(hub):
    hub([as_category(ROWS[0]), as_category(ROWS[1]) | {"prompt": ""}])
    with pytest.raises(CorpusError, match=r"someone/pairs \(30k_test\), row 2: column 'prompt'"):
        load_beavertails("someone/pairs", CATEGORIES, split="30k_test")


def test_the_projects_own_pairs_cover_every_category():
    dataset = load_beavertails(str(PAIRS), detector_class().config_class().categories)
    labels = np.asarray(dataset["labels"])
    assert labels.shape == (len(dataset), 14)
    assert labels.sum(0).min() >= 4
    is_safe = [json.loads(line)["is_safe"] for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    assert (labels.max(1) == 0).tolist() == is_safe
