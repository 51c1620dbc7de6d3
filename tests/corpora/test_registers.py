import random
import re

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from corpora.beavertails import FEATURES
from corpora.registers import CLOSINGS, FRAMES, NAMES, OPENINGS, lay_out, recast

RESPONSE = "Boil the water. Add the tea!\nWait for three minutes, then pour."


def rows_of(count, response=RESPONSE):
    labels = [[float(n % 2), float(n % 3 == 0)] for n in range(count)]
    return Dataset.from_dict(
        {
            "prompt": [f"prompt {n}?" for n in range(count)],
            "response": [response] * count,
            "labels": labels,
            "labels_mean": labels,
        },
        features=FEATURES,
    )


@pytest.fixture(scope="module")
def rows():
    return rows_of(1000)


@pytest.fixture(scope="module")
def recast_rows(rows):
    return recast(rows, 0.3, seed=0)


def changed(before, after, column):
    return [one != other for one, other in zip(before[column], after[column], strict=True)]


def forms_of(prompt):
    return {frame.format(prompt=prompt, name=name) for frame in FRAMES for name in NAMES}


def layouts_of(response, draws=400):
    return {lay_out(response, random.Random(seed)) for seed in range(draws)}


def without_frame_of_words(text):
    # Of a layout, what stands between an opening and a closing.
    for opening in OPENINGS:
        text = text.removeprefix(opening)
    for closing in CLOSINGS:
        text = text.removesuffix(closing)
    return text.strip()


def test_about_the_share_of_prompts_and_of_responses_is_recast(rows, recast_rows):
    for column in ("prompt", "response"):
        assert 0.25 < sum(changed(rows, recast_rows, column)) / 1000 < 0.35


def test_prompt_and_response_are_drawn_each_alone(rows, recast_rows):
    pairs = list(zip(changed(rows, recast_rows, "prompt"), changed(rows, recast_rows, "response"), strict=True))
    both = pairs.count((True, True))
    assert both / 1000 == pytest.approx(0.3 * 0.3, abs=0.03)


def test_labels_and_columns_are_kept(rows, recast_rows):
    assert recast_rows.features == rows.features
    for column in ("labels", "labels_mean"):
        assert recast_rows[column][:] == rows[column][:]


def test_other_columns_travel_along(rows):
    weighted = rows.add_column("loss_weights", list(range(1000)))
    assert recast(weighted, 0.5, seed=0)["loss_weights"][:] == list(range(1000))


def test_harmful_and_harmless_rows_are_recast_alike(rows, recast_rows):
    harmful = [labels[0] > 0.5 for labels in rows["labels"]]
    for column in ("prompt", "response"):
        changes = changed(rows, recast_rows, column)
        shares = [
            sum(change for change, kind in zip(changes, harmful, strict=True) if kind is wanted) / harmful.count(wanted)
            for wanted in (True, False)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_a_recast_prompt_is_a_frame_about_the_whole_prompt(rows):
    framed = recast(rows, 1.0, seed=0)["prompt"][:]
    assert all(after in forms_of(before) for before, after in zip(rows["prompt"], framed, strict=True))


def test_every_frame_and_every_name_is_drawn(rows):
    framed = recast(rows, 1.0, seed=0)["prompt"][:]
    for frame in FRAMES:
        pattern = re.escape(frame).replace(r"\{prompt\}", r"prompt \d+\?").replace(r"\{name\}", ".+?")
        assert any(re.fullmatch(pattern, prompt) for prompt in framed), frame
    assert [name for name in NAMES if not any(name in prompt for prompt in framed)] == []


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_holds_the_prompt_once(frame):
    assert frame.format(prompt="<the prompt>", name="<a name>").count("<the prompt>") == 1


@pytest.mark.parametrize("prompt", ["What does {x} mean in f'{x!r}'?", "{prompt}", "{name}", "a { b", "100 % {}"])
def test_braces_in_a_prompt_stay_as_they_are(prompt):
    dataset = rows_of(40).remove_columns("prompt").add_column("prompt", [prompt] * 40)
    assert set(recast(dataset, 1.0, seed=0)["prompt"]) <= forms_of(prompt)


@pytest.mark.parametrize("response", [None, "", "  \n"])
def test_a_prompt_alone_stays_alone(response):
    dataset = rows_of(100, response)
    after = recast(dataset, 1.0, seed=0)
    assert after.features == dataset.features
    assert after["response"][:] == [response] * 100
    assert all(changed(dataset, after, "prompt"))


def test_prompts_alone_and_pairs_can_be_mixed():
    dataset = rows_of(4).remove_columns("response").add_column("response", [None, RESPONSE, None, RESPONSE])
    after = recast(dataset, 1.0, seed=0)["response"][:]
    assert (after[0], after[2]) == (None, None)
    bodies = {without_frame_of_words(text) for text in layouts_of(RESPONSE)}
    assert {without_frame_of_words(after[1]), without_frame_of_words(after[3])} <= bodies


def test_a_share_of_zero_changes_nothing(rows):
    assert recast(rows, 0.0, seed=0).to_list() == rows.to_list()


def test_recasting_is_seeded(rows):
    first, again, other = (recast(rows, 0.5, seed).to_list() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_response_comes_in_every_layout():
    bodies = {without_frame_of_words(text) for text in layouts_of(RESPONSE)}
    assert bodies == {
        "Boil the water. Add the tea! Wait for three minutes, then pour.",
        "Boil the water.\n\nAdd the tea!\n\nWait for three minutes, then pour.",
        "- Boil the water.\n- Add the tea!\n- Wait for three minutes, then pour.",
        "1. Boil the water.\n2. Add the tea!\n3. Wait for three minutes, then pour.",
    }


@pytest.mark.parametrize("marked", ["1. Boil the water.\n2) Add the tea!", "- Boil the water.\n* Add the tea!"])
def test_the_marks_of_a_list_go_before_it_is_laid_out_anew(marked):
    bodies = {without_frame_of_words(text) for text in layouts_of(marked)}
    assert bodies == {without_frame_of_words(text) for text in layouts_of("Boil the water. Add the tea!")}


def test_every_opening_and_closing_is_drawn_and_neither_always():
    texts = layouts_of(RESPONSE, draws=2000)
    assert [opening for opening in OPENINGS if not any(text.startswith(opening) for text in texts)] == []
    assert [closing for closing in CLOSINGS if not any(text.endswith(closing) for text in texts)] == []
    assert any(not text.startswith(OPENINGS) and not text.endswith(CLOSINGS) for text in texts)


def test_a_point_within_a_number_ends_no_sentence():
    assert "- It weighs 2.5 kilos." in layouts_of("It weighs 2.5 kilos.")


@given(st.text("ab.!? \n\té", min_size=1, max_size=60).filter(str.strip), st.integers(0, 99))
def test_a_layout_keeps_the_responses_words_in_order(response, seed):
    marks = re.compile(r"(?m)^(?:- |\d+\. )")
    body = without_frame_of_words(lay_out(response, random.Random(seed)))
    assert marks.sub("", body).split() == response.split()
