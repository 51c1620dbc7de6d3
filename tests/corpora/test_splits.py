from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration_lance import BEAVERTAILS_CATEGORIES
from corpora.beavertails import load_beavertails
from corpora.splits import normalise, split_by_prompt

PAIRS = Path(__file__).parents[1] / "data" / "pairs.jsonl"


@pytest.fixture(scope="module")
def pairs():
    return load_beavertails(str(PAIRS), BEAVERTAILS_CATEGORIES)


def prompts_of(dataset):
    return {normalise(prompt) for prompt in dataset["prompt"]}


def test_case_and_white_space_make_no_other_prompt():
    assert normalise("  How do\n\tI  Cook? ") == "how do i cook?"
    assert normalise("How do I cook!") != normalise("How do I cook?")


def test_no_prompt_stands_on_both_sides(pairs):
    distinct = prompts_of(pairs)
    assert len(distinct) < len(set(pairs["prompt"])) < len(pairs)
    for seed in range(10):
        rest, validation = split_by_prompt(pairs, 0.5, seed)
        assert not prompts_of(rest) & prompts_of(validation)


def test_every_row_stands_on_one_side_in_the_files_order(pairs):
    rest, validation = split_by_prompt(pairs, 0.3, seed=0)
    rows = pairs.to_list()
    kept, held_out = rest.to_list(), validation.to_list()
    assert [row for row in rows if row in held_out] == held_out
    assert [row for row in rows if row not in held_out] == kept


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_share_is_of_distinct_prompts(share):
    dataset = Dataset.from_dict({"prompt": [f"prompt {n % 2000}" for n in range(6000)]})
    rest, validation = split_by_prompt(dataset, share, seed=0)
    assert len(validation) == 3 * len(prompts_of(validation))
    assert len(rest) + len(validation) == 6000
    assert len(prompts_of(validation)) / 2000 == pytest.approx(share, abs=0.05)


def test_a_prompt_stands_on_the_same_side_in_every_data_set(pairs):
    part = pairs.select(range(0, len(pairs), 3))
    assert prompts_of(split_by_prompt(part, 0.3, 0)[1]) == prompts_of(part) & prompts_of(
        split_by_prompt(pairs, 0.3, 0)[1]
    )


def test_a_split_is_seeded(pairs):
    first, again, other = (split_by_prompt(pairs, 0.3, seed)[1].to_list() for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_split_does_not_depend_on_the_order_of_rows(pairs):
    turned = pairs.select(range(len(pairs) - 1, -1, -1))
    assert prompts_of(split_by_prompt(pairs, 0.3, 0)[1]) == prompts_of(split_by_prompt(turned, 0.3, 0)[1])


@settings(max_examples=40)
@given(st.lists(st.text("aB \t", max_size=4), min_size=1, max_size=20), st.floats(0.01, 0.99), st.integers(0, 9))
def test_any_split_is_disjoint_and_complete(prompts, share, seed):
    rest, validation = split_by_prompt(Dataset.from_dict({"prompt": prompts}), share, seed)
    assert sorted([*rest["prompt"], *validation["prompt"]]) == sorted(prompts)
    assert not prompts_of(rest) & prompts_of(validation)
