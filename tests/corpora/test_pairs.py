import json
from collections import Counter
from pathlib import Path

import pytest

from corpora.pairs import load_pairs
from corpora.records import CorpusError

DATA = Path(__file__).parents[1] / "data"
ROW = {"prompt": "Is it fine to steal?", "response": "No.", "is_safe": True, "source": "forum"}


def test_pairs_keep_their_label_and_source():
    pairs = load_pairs(str(DATA / "other_pairs.jsonl"))
    assert pairs.column_names == ["prompt", "response", "is_safe", "source"]
    assert Counter(zip(pairs["source"], pairs["is_safe"], strict=True)) == {
        ("forum", False): 3,
        ("forum", True): 5,
        ("assistant", False): 5,
        ("assistant", True): 3,
    }
    assert pairs["prompt"][0] == "The new neighbours are foreign."


@pytest.mark.parametrize(("text", "expected"), [("True", True), ("true", True), ("False", False), ("false", False)])
def test_csv_booleans_are_read_in_both_spellings(tmp_path, text, expected):
    path = tmp_path / "pairs.csv"
    path.write_text(f"prompt,response,is_safe,source\nMay I?,No.,{text},forum\n", encoding="utf-8")
    assert load_pairs(str(path))["is_safe"][:] == [expected]


def test_a_pair_without_response_is_a_prompt_alone(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW | {"response": None}) + "\n" + json.dumps(ROW) + "\n", encoding="utf-8")
    assert load_pairs(str(path))["response"][:] == [None, "No."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_safe": None}, "column 'is_safe' must be true or false, got None"),
        ({"is_safe": 1}, "column 'is_safe' must be true or false, got 1"),
        ({"is_safe": "safe"}, "column 'is_safe' must hold JSON, got 'safe'"),
        ({"prompt": ""}, "column 'prompt' is missing or empty"),
        ({"source": None}, "column 'source' is missing or empty"),
        ({"response": 3}, "column 'response' must be text, got int"),
    ],
)
def test_a_bad_pair_is_named_with_its_row(tmp_path, change, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | change) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"pairs\.jsonl, row 2: {message}"):
        load_pairs(str(path))


def test_a_file_without_pairs_is_refused(tmp_path):
    (tmp_path / "pairs.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"pairs\.json: no rows"):
        load_pairs(str(tmp_path / "pairs.json"))
