import json
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from configuration_lance import BEAVERTAILS_CATEGORIES, EFFORTS
from refinement import frame
from refinement.demonstrations import DemonstrationError, load_demonstrations
from refinement.frame import read_refined, refined_reply
from refinement.gradient import textual_gradient

ROWS = [
    json.loads(line)
    for line in Path(frame.__file__).with_name("demonstrations.jsonl").read_text(encoding="utf-8").splitlines()
]


def those(wrong):
    return [row for row in ROWS if wrong(row)]


def test_there_are_enough_and_each_has_the_same_keys():
    assert len(ROWS) >= 1200
    names = ["prompt", "effort", "refined"]
    assert those(lambda row: list(row) not in (names, [*names, "earlier"])) == []
    assert those(lambda row: "earlier" in row and list(row["earlier"]) != ["prompt", "effort"]) == []
    assert those(lambda row: not all(isinstance(row[name], str) and row[name] for name in ("prompt", "refined"))) == []


def test_each_names_at_least_one_known_category_and_known_efforts():
    for attempts in (ROWS, [row["earlier"] for row in ROWS if "earlier" in row]):
        for row in attempts:
            assert row["effort"] and set(row["effort"]) <= set(BEAVERTAILS_CATEGORIES), row
            assert set(row["effort"].values()) <= set(EFFORTS), row


@pytest.mark.parametrize("category, effort", [*product(BEAVERTAILS_CATEGORIES, EFFORTS)])
def test_every_category_is_shown_at_every_effort(category, effort):
    assert len(those(lambda row: row["effort"].get(category) == effort)) >= 25


def test_no_prompt_stands_twice():
    counts = Counter(" ".join(row["prompt"].split()).casefold() for row in ROWS)
    assert [prompt for prompt, count in counts.items() if count > 1] == []


def test_second_attempts_are_shown_and_differ_from_the_first():
    second = [row for row in ROWS if "earlier" in row]
    assert len(second) >= 200
    for row in second:
        texts = {
            " ".join(text.casefold().split()) for text in (row["prompt"], row["refined"], row["earlier"]["prompt"])
        }
        assert len(texts) == 3, row


def test_every_rewrite_is_another_prompt():
    assert those(lambda row: row["prompt"].casefold().split() == row["refined"].casefold().split()) == []


def test_no_text_holds_a_tag_or_space_around_it():
    for name in ("prompt", "refined"):
        assert those(lambda row, name=name: "<" in row[name] or "&lt" in row[name]) == []
        assert those(lambda row, name=name: row[name] != row[name].strip()) == []


def test_the_loop_reads_every_rewrite_back_as_it_stands():
    assert those(lambda row: read_refined(refined_reply(row["refined"])) != row["refined"]) == []


def test_every_effort_gives_a_gradient_line():
    for row in ROWS:
        gradient = textual_gradient(dict.fromkeys(row["effort"], 0.5), row["effort"])
        assert len(gradient.splitlines()) == len(row["effort"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "refined": "b"}, "expected an object with"),
        ({"prompt": "a", "refined": "b", "effort": {"self_harm": "Tiny"}}, '"effort" must map categories to Minor'),
        ({"prompt": "a", "refined": "b", "effort": {"self_harm": ["Minor"]}}, '"effort" must map categories to Minor'),
        ({"prompt": " ", "refined": "b", "effort": {"self_harm": "Minor"}}, '"prompt" and "refined" must be text'),
    ],
)
def test_a_line_that_is_no_demonstration_is_named(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    good = {"prompt": "a\u2028a", "refined": "b", "effort": {"self_harm": "Minor"}}
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (good, row)), encoding="utf-8")
    with pytest.raises(DemonstrationError, match=f"{path}, line 2: {message}"):
        load_demonstrations(path)


def test_a_line_nested_without_end_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(DemonstrationError, match="line 1: expected an object with"):
        load_demonstrations(path)
