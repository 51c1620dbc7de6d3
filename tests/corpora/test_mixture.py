import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from corpora.beavertails import FEATURES
from corpora.mixture import drop_responses, exchange_prompts, label_weights, splice_safe, with_loss_weights

COLUMNS = ("prompt", "labels", "labels_mean")


def pairs_of(rows, responses=True):
    labels = [[float(n % 2), float(n % 3 == 0)] for n in range(rows)]
    return Dataset.from_dict(
        {
            "prompt": [f"prompt {n}" for n in range(rows)],
            "response": [f"response {n}" if responses else None for n in range(rows)],
            "labels": labels,
            "labels_mean": [[0.5 * first, second] for first, second in labels],
        },
        features=FEATURES,
    )


@pytest.fixture(scope="module")
def pairs():
    return pairs_of(1000)


@pytest.fixture(scope="module")
def safe():
    labels = [[0.0, 0.0]] * 3
    responses = ["Gladly.", "Of course.", None]
    return Dataset.from_dict(
        {"prompt": ["a", "b", "c"], "response": responses, "labels": labels, "labels_mean": labels}, features=FEATURES
    )


def test_about_the_share_of_responses_is_dropped_and_the_rest_is_untouched(pairs):
    dropped = drop_responses(pairs, 0.3, seed=0)
    responses = dropped["response"][:]
    assert 0.25 < responses.count(None) / 1000 < 0.35
    assert all(response in (None, f"response {n}") for n, response in enumerate(responses))
    assert all(dropped[column][:] == pairs[column][:] for column in COLUMNS)
    assert dropped.features == pairs.features


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 1000)])
def test_a_share_of_none_or_all_is_exact(pairs, share, expected):
    assert drop_responses(pairs, share, seed=0)["response"][:].count(None) == expected


def test_dropping_is_seeded(pairs):
    first, again, other = (drop_responses(pairs, 0.5, seed)["response"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_dropping_follows_the_rows_of_a_selection(pairs):
    dropped = drop_responses(pairs.select([7, 3]), 0.0, seed=0)
    assert dropped["response"][:] == ["response 7", "response 3"]


def test_dropped_rows_can_be_joined_to_safe_ones(pairs, safe):
    mixture = concatenate_datasets([drop_responses(pairs, 1.0, seed=0), safe])
    assert mixture["response"][-3:] == ["Gladly.", "Of course.", None]
    assert mixture["prompt"][0] == "prompt 0"


def test_about_the_share_is_spliced_before_or_behind_with_labels_kept(pairs, safe):
    spliced = splice_safe(pairs, safe, 0.4, seed=0)
    places = {"untouched": 0, "before": 0, "behind": 0}
    for n, response in enumerate(spliced["response"]):
        forms = {f"response {n}": "untouched"}
        forms |= {f"{harmless}\n\nresponse {n}": "before" for harmless in ("Gladly.", "Of course.")}
        forms |= {f"response {n}\n\n{harmless}": "behind" for harmless in ("Gladly.", "Of course.")}
        places[forms[response]] += 1
    assert 550 < places["untouched"] < 650
    assert min(places["before"], places["behind"]) > 150
    assert all(spliced[column][:] == pairs[column][:] for column in COLUMNS)
    assert spliced.features == pairs.features


def test_a_share_of_one_splices_every_response_and_draws_every_harmless_one(pairs, safe):
    responses = splice_safe(pairs, safe, 1.0, seed=0)["response"][:]
    assert all("\n\n" in response for response in responses)
    assert {part for response in responses for part in response.split("\n\n") if "response" not in part} == {
        "Gladly.",
        "Of course.",
    }


def test_a_share_of_zero_splices_nothing(pairs, safe):
    assert splice_safe(pairs, safe, 0.0, seed=0)["response"][:] == pairs["response"][:]


def test_a_prompt_alone_stays_alone(safe):
    assert splice_safe(pairs_of(50, responses=False), safe, 1.0, seed=0)["response"][:] == [None] * 50


def test_splicing_is_seeded(pairs, safe):
    first, again, other = (splice_safe(pairs, safe, 0.5, seed)["response"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_loss_weights_stand_beside_their_rows(pairs):
    weights = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    weighted = with_loss_weights(pairs, weights)
    np.testing.assert_array_equal(weighted["loss_weights"][:], weights)
    assert weighted.remove_columns("loss_weights").to_list() == pairs.to_list()


def test_loss_weights_follow_the_rows_of_a_selection(pairs):
    weighted = with_loss_weights(pairs.select([7, 3]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert weighted["prompt"][:] == ["prompt 7", "prompt 3"]
    assert weighted["loss_weights"][:] == [[1.0, 2.0], [3.0, 4.0]]


def test_weighted_rows_can_be_joined_and_dropped_and_spliced(pairs, safe):
    weighted = with_loss_weights(drop_responses(pairs, 0.5, seed=0), np.full((1000, 2), 2.0))
    harmless = with_loss_weights(safe, np.ones((3, 2)))
    mixture = splice_safe(concatenate_datasets([weighted, harmless]), safe, 0.5, seed=0)
    assert mixture["prompt"][-4:] == ["prompt 999", "a", "b", "c"]
    assert mixture["loss_weights"][:] == [[2.0, 2.0]] * 1000 + [[1.0, 1.0]] * 3


def test_weights_must_be_as_many_as_rows(pairs):
    with pytest.raises(ValueError):
        with_loss_weights(pairs, np.ones((999, 2)))


# Category 0 is common (3 of 4), category 1 rare (1 of 4); the last row is safe.
LABELS = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=float)


@pytest.mark.parametrize(
    ("category_balance", "safety_balance", "raw"),
    [
        (0.0, 0.0, [[1, 1], [1, 1], [1, 1], [1, 1]]),
        (1.0, 0.0, [[1, 1], [1, 1], [1, 3], [1, 1]]),
        (0.5, 0.0, [[1, 1], [1, 1], [1, 3**0.5], [1, 1]]),
        (0.0, 1.0, [[1, 1], [1, 1], [1, 1], [3, 3]]),
        (1.0, 1.0, [[1, 1], [1, 1], [1, 3], [3, 3]]),
    ],
)
def test_weights_are_the_ratios_by_hand_scaled_to_mean_one(category_balance, safety_balance, raw):
    weights = label_weights(LABELS, category_balance, safety_balance)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, np.array(raw) / np.mean(raw), rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_a_rare_positive_weighs_by_its_odds_and_a_common_one_no_less_than_a_negative():
    labels = np.zeros((100, 2))
    labels[:10, 0] = 1
    labels[:60, 1] = 1
    weights = label_weights(labels, category_balance=1.0, safety_balance=0.0)
    assert weights[0, 0] / weights[99, 0] == pytest.approx(9)
    assert weights[0, 1] / weights[99, 1] == pytest.approx(1)


def test_at_power_one_safe_rows_weigh_as_much_as_unsafe_ones_together():
    labels = np.zeros((50, 3))
    labels[:43, 1] = 1
    weights = label_weights(labels, category_balance=0.0, safety_balance=1.0)
    assert weights[:43].sum() == pytest.approx(weights[43:].sum(), rel=1e-5)


def test_a_soft_positive_weighs_its_share():
    weights = label_weights(np.array([[0.5], [0.0], [0.0], [0.0]]), category_balance=1.0, safety_balance=0.0)
    assert weights[0, 0] / weights[1, 0] == pytest.approx(2)


@pytest.mark.parametrize("labels", [np.zeros((4, 2)), np.ones((4, 2))])
def test_labels_of_one_kind_weigh_alike(labels):
    np.testing.assert_allclose(label_weights(labels, 1.0, 1.0), 1)


LONG = "This answer has more than enough words to be understood without its own prompt."


def answers_of(*responses):
    rows = [{"prompt": f"prompt {n}", "response": response} for n, response in enumerate(responses)]
    labels = [[float(n % 2)] for n in range(len(rows))]
    return Dataset.from_list(
        [row | {"labels": label, "labels_mean": label} for row, label in zip(rows, labels, strict=True)],
        features=FEATURES,
    )


def test_exchanged_prompts_come_from_the_other_rows_and_all_else_stays(safe):
    answers = answers_of(*[f"{n}: {LONG}" for n in range(1000)])
    exchanged = exchange_prompts(answers, safe, 0.3, seed=0)
    prompts = exchanged["prompt"][:]
    moved = [prompt for prompt in prompts if not prompt.startswith("prompt ")]
    assert 0.25 < len(moved) / 1000 < 0.35
    assert set(moved) == {"a", "b", "c"}
    assert all(prompt == f"prompt {n}" for n, prompt in enumerate(prompts) if prompt.startswith("prompt "))
    assert all(exchanged[column][:] == answers[column][:] for column in ("response", "labels", "labels_mean"))
    assert exchanged.features == answers.features


def test_a_short_answer_and_a_prompt_alone_keep_their_prompt(safe):
    answers = answers_of("Yes, do.", None, LONG)
    assert exchange_prompts(answers, safe, 1.0, seed=0)["prompt"][:2] == ["prompt 0", "prompt 1"]
    assert exchange_prompts(answers, safe, 1.0, seed=0)["prompt"][2] in ("a", "b", "c")


def test_without_other_rows_nothing_is_exchanged(safe):
    answers = answers_of(*[LONG] * 3)
    assert exchange_prompts(answers, safe.select([]), 0.9, seed=0)["prompt"][:] == answers["prompt"][:]


def test_exchanging_is_seeded(safe):
    answers = answers_of(*[LONG] * 100)
    first, again, other = (exchange_prompts(answers, safe, 0.5, seed)["prompt"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other
