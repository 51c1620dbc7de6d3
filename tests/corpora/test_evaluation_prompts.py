import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.evaluation_prompts import EvaluationPrompt, load_evaluation_prompts, sample_balanced
from corpora.records import CorpusError

CATEGORIES = ["theft", "violence", "privacy"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prompts_of(*counts):
    return [
        EvaluationPrompt(f"{category} {n}", category)
        for category, count in zip(CATEGORIES, counts, strict=False)
        for n in range(count)
    ]


def test_prompts_come_with_their_category(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "Hi", "category": "theft"}])
    assert load_evaluation_prompts(path, CATEGORIES) == [("Hi", "theft")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"prompt": " ", "category": "theft"}], "row 1: column 'prompt'"),
        ([{"prompt": "Hi"}], "row 1: column 'category'"),
        ([{"prompt": "Hi", "category": "gluttony"}], "row 1: 'gluttony' is none of the 3 categories"),
    ],
)
def test_a_row_that_is_of_no_use_is_named(tmp_path, rows, message):
    with pytest.raises(CorpusError, match=message):
        load_evaluation_prompts(write(tmp_path / "p.jsonl", rows), CATEGORIES)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 3), st.data())
def test_a_draw_is_as_even_as_the_categories_allow(counts, seed, data):
    count = data.draw(st.integers(1, sum(counts)))
    drawn = sample_balanced(prompts_of(*counts), count, seed)
    assert len(set(drawn)) == len(drawn) == count
    assert drawn == sample_balanced(prompts_of(*counts), count, seed)
    taken = Counter(prompt.category for prompt in drawn)
    sizes = dict(zip(CATEGORIES, counts, strict=False))
    # One that gave less than the most had no more to give, but for one.
    assert all(taken[name] >= min(size, max(taken.values()) - 1) for name, size in sizes.items())


def test_more_than_there_are_is_an_error():
    with pytest.raises(CorpusError, match="4 prompts are asked for, there are 3"):
        sample_balanced(prompts_of(1, 2), 4, seed=0)
