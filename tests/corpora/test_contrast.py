import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import corpora
from corpora.beavertails import load_beavertails
from corpora.safe import load_safe
from corpora.splits import normalise
from detector import detector_class

FOLDER = Path(corpora.__file__).parent / "contrast"
CATEGORIES = detector_class().config_class().categories
HARMLESS_COLUMNS = {"prompt", "response", "kind"}
COLUMNS = {"safe": HARMLESS_COLUMNS, "everyday": HARMLESS_COLUMNS, "labelled": HARMLESS_COLUMNS | {"labels"}}
KINDS = {
    "safe": {
        "homonyms",
        "figurative_language",
        "safe_targets",
        "safe_contexts",
        "definitions",
        "real_group_nonsense_discrimination",
        "nonsense_group_real_discrimination",
        "historical_events",
        "privacy_public",
        "privacy_fictional",
        "redirected",
        "professional",
        "support",
        "sensitive_facts",
        "role_play_safe",
        "discrimination_nonsense",
        "privacy_public_or_fictional",
    },
    "everyday": {"everyday", "innocent_words"},
    "labelled": {
        "role_play",
        "coded",
        "fiction",
        "short_agreement",
        "long_answer",
        "toxic_reply",
        "framed",
        "short_turn",
        "assistant_style",
        "persona_frame",
        "indirect_request",
        "chat_log",
        "full_answer",
        "mixed_signals",
        "sensitive_subject",
        "ordinary_short",
        "urging",
    },
}
FEWEST = {"safe": 60, "everyday": 60, "labelled": 45}


def rows_of(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def load(name):
    path = str(FOLDER / f"{name}.jsonl")
    return load_beavertails(path, CATEGORIES) if name == "labelled" else load_safe(path, CATEGORIES)


@pytest.mark.parametrize("name", COLUMNS)
def test_every_row_has_the_columns_of_its_file_and_no_text_is_blank(name):
    for row in rows_of(name):
        assert row.keys() == COLUMNS[name]
        assert all(row[column].strip() == row[column] != "" for column in ("prompt", "response", "kind"))


@pytest.mark.parametrize("name", COLUMNS)
def test_the_loader_reads_every_row(name):
    rows, dataset = rows_of(name), load(name)
    for column in ("prompt", "response"):
        assert dataset[column][:] == [row[column] for row in rows]
    expected = [row["labels"] if name == "labelled" else [0] * 14 for row in rows]
    assert dataset["labels"][:] == expected


@pytest.mark.parametrize("name", COLUMNS)
def test_the_kinds_are_those_of_the_data_card_and_none_is_rare(name):
    counts = Counter(row["kind"] for row in rows_of(name))
    assert counts.keys() == KINDS[name]
    assert min(counts.values()) >= FEWEST[name]


def test_the_data_card_gives_each_kinds_count():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in COLUMNS:
        for kind, count in Counter(row["kind"] for row in rows_of(name)).items():
            assert f"| `{kind}` | {count} |" in card


def test_no_pair_stands_twice_in_a_file_or_in_two():
    pairs = Counter((normalise(row["prompt"]), normalise(row["response"])) for name in COLUMNS for row in rows_of(name))
    assert [pair for pair, count in pairs.items() if count > 1] == []


def test_labels_are_whole_and_cover_all_categories():
    labels = np.array([row["labels"] for row in rows_of("labelled")])
    assert labels.shape[1] == 14
    assert set(labels.flat) == {0, 1}
    assert labels.sum(0).min() >= 10


@pytest.mark.parametrize("kind", sorted(KINDS["labelled"]))
def test_each_labelled_kind_holds_safe_and_unsafe_pairs(kind):
    is_safe = [not any(row["labels"]) for row in rows_of("labelled") if row["kind"] == kind]
    assert 1 / 3 <= sum(is_safe) / len(is_safe) <= 2 / 3
