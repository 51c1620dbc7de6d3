import json
import re
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from configuration_lance import BEAVERTAILS_CATEGORIES
from corpora.beavertails import FEATURES
from corpora.records import CorpusError
from corpora.safe import crop_response, load_safe, match_lengths, sample_evenly

DATA = Path(__file__).parents[1] / "data"

sentence = st.builds(
    lambda words, end: " ".join(words) + end,
    st.lists(st.text("abcxyz,;'", min_size=1, max_size=6), min_size=1, max_size=8),
    st.sampled_from(".!?"),
)


@pytest.fixture(scope="module")
def safe_pairs():
    return load_safe(str(DATA / "safe_pairs.jsonl"), BEAVERTAILS_CATEGORIES)


@pytest.fixture(scope="module")
def safe_prompts():
    return load_safe(str(DATA / "safe_prompts.jsonl"), BEAVERTAILS_CATEGORIES)


def responses_of(*lengths):
    return Dataset.from_dict({"response": [" ".join(["word"] * length) for length in lengths]})


def test_safe_pairs_have_labels_of_zero(safe_pairs):
    assert safe_pairs.features == FEATURES
    assert safe_pairs["labels"][:] == safe_pairs["labels_mean"][:] == [[0.0] * 14] * 40
    assert safe_pairs["response"][0] == "Those above one that only one and themselves divide."


def test_a_safe_row_without_response_stands_alone(safe_prompts):
    assert safe_prompts.features == FEATURES
    assert safe_prompts["response"][:] == [None] * 40


def test_labels_of_a_safe_file_are_not_read(tmp_path):
    path = tmp_path / "safe.jsonl"
    path.write_text('{"prompt": "Hello?", "response": "Hi.", "labels": [1, 1]}\n', encoding="utf-8")
    assert load_safe(str(path), ["theft", "violence"])["labels"][0] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "Hello?"}, {"response": "Hi."}], r"safe\.jsonl, row 2: column 'prompt' is missing or empty"),
        ([{"prompt": "\n"}], r"safe\.jsonl, row 1: column 'prompt' is missing or empty"),
        ([{"prompt": "Hello?", "response": ["Hi."]}], r"safe\.jsonl, row 1: column 'response' must be text, got list"),
        ([], r"safe\.jsonl: no rows"),
    ],
)
def test_a_bad_safe_file_is_named(tmp_path, rows, message):
    (tmp_path / "safe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        load_safe(str(tmp_path / "safe.jsonl"), BEAVERTAILS_CATEGORIES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (1, "Boil the water."),
        (3, "Boil the water."),
        (5, "Boil the water."),
        (6, "Boil the water. Add the tea!"),
        (8, "Boil the water. Add the tea!\n\nWait:"),
        (11, "Boil the water. Add the tea!\n\nWait:\nthree minutes"),
    ],
)
def test_a_crop_keeps_the_whole_sentences_that_fit(words, expected):
    assert crop_response("Boil the water. Add the tea!\n\nWait:\nthree minutes", words) == expected


def test_a_point_within_a_number_ends_no_sentence():
    assert crop_response("It weighs 2.5 kilos. That is a lot.", 5) == "It weighs 2.5 kilos."


@given(st.lists(sentence, min_size=1, max_size=6), st.sampled_from([" ", "\n", "\n\n"]), st.integers(0, 50))
def test_a_crop_is_the_longest_run_of_leading_sentences_that_fits(sentences, gap, words):
    fitting = [
        count for count in range(1, len(sentences) + 1) if len(" ".join(sentences[:count]).split()) <= words
    ] or [1]
    assert crop_response(gap.join(sentences), words) == gap.join(sentences[: max(fitting)])


@given(st.text("ab.!? \n\t\r\u2028é", max_size=60), st.integers(-3, 20))
def test_a_crop_of_any_text_holds_its_leading_words_and_ends_where_a_sentence_ends(text, words):
    cropped = crop_response(text, words)
    kept, rest = cropped.split(), text.split()[len(cropped.split()) :]
    assert kept + rest == text.split()
    assert bool(cropped.strip()) == bool(text.strip())
    if rest:
        stop = re.match(r"\s*" + r"\s+".join(map(re.escape, kept)) + r"(\s+)", text)
        assert kept[-1][-1] in ".!?" or "\n" in stop.group(1)


def test_matched_responses_keep_within_the_length_drawn(safe_pairs):
    matched = match_lengths(safe_pairs, responses_of(20), seed=0)
    assert matched.features == safe_pairs.features
    before, after = safe_pairs["response"][:], matched["response"][:]
    for original, cropped in zip(before, after, strict=True):
        assert len(cropped.split()) <= 20 or cropped == crop_response(original, 1)
        if len(original.split()) <= 20:
            assert cropped.split() == original.split()
    assert (
        sum(len(cropped.split()) < len(original.split()) for original, cropped in zip(before, after, strict=True)) > 5
    )


def test_matched_lengths_are_drawn_among_the_references_responses(safe_pairs):
    reference = Dataset.from_dict({"response": [*responses_of(9, 45)["response"], None]})
    drawn = Counter()
    matched = match_lengths(safe_pairs, reference, seed=0)["response"]
    for original, cropped in zip(safe_pairs["response"], matched, strict=True):
        short, long = crop_response(original, 9), crop_response(original, 45)
        assert cropped in (short, long)
        if short != long:
            drawn[cropped == long] += 1
    assert min(drawn[True], drawn[False]) >= 3


def test_matching_lengths_leaves_prompts_and_labels_alone(safe_pairs, safe_prompts):
    for safe in (safe_pairs, safe_prompts):
        matched = match_lengths(safe, responses_of(4, 8), seed=0)
        for column in ("prompt", "labels", "labels_mean"):
            assert matched[column][:] == safe[column][:]
    assert match_lengths(safe_prompts, responses_of(4, 8), seed=0).to_list() == safe_prompts.to_list()


def test_matching_lengths_is_seeded(safe_pairs):
    reference = responses_of(5, 15, 30, 60)
    first, again, other = (match_lengths(safe_pairs, reference, seed=seed)["response"][:] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def files_of(*sizes):
    return [
        Dataset.from_dict({"prompt": [f"{name} {n}" for n in range(size)]})
        for name, size in zip("abcd", sizes, strict=False)
    ]


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [
        ((50, 50), 20, {"a": 10, "b": 10}),
        ((50, 3, 50), 33, {"a": 15, "b": 3, "c": 15}),
        ((2, 40, 9), 31, {"a": 2, "b": 20, "c": 9}),
        ((5, 6), 100, {"a": 5, "b": 6}),
        ((7, 9), 1, {"b": 1}),
    ],
)
def test_rows_come_evenly_from_all_files_and_a_small_ones_lack_from_the_others(sizes, rows, expected):
    prompts = sample_evenly(files_of(*sizes), rows, seed=0)["prompt"][:]
    assert Counter(prompt[0] for prompt in prompts) == expected
    assert len(set(prompts)) == len(prompts)


def test_sampling_is_seeded_and_not_just_the_head():
    files = files_of(100, 100)
    first, again, other = (sample_evenly(files, 20, seed=seed)["prompt"][:] for seed in (3, 3, 4))
    assert first == again
    assert set(first) != set(other)
    assert set(first) != {f"{name} {n}" for name in "ab" for n in range(10)}
