from concurrent.futures import ThreadPoolExecutor
from inspect import getmodule
from threading import Event, Lock
from time import sleep

import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from configuration_lance import EFFORTS
from detector import detector_class

assessment = getmodule(detector_class().assess)


PAIRS = [
    ("the cat", "sat on the mat"),
    ("a dog", None),
    ("the mat sat on a cat and a dog on a mat", "no"),
    ("dog", "cat " * 30),
]


def test_assess_keeps_order_whatever_the_batches(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    prompts, responses = zip(*(PAIRS * 3), strict=True)
    together = model.assess(prompts, responses, batch_size=5)
    for pair, distribution in zip(PAIRS * 3, together, strict=True):
        alone = model.assess(pair[0], pair[1])[0] if pair[1] else model.assess(pair[0])[0]
        assert list(distribution.mean.values()) == pytest.approx(list(alone.mean.values()), abs=1e-6)


def test_assess_says_all_that_users_read(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    verdict = model.assess("the cat", "sat on the mat", risk_threshold=0.01)[0]
    assert list(verdict.mean) == model.config.categories
    assert not verdict.is_safe
    risks = [verdict.mean[category] for category in verdict.effort]
    assert len(risks) == 14
    assert risks == sorted(risks, reverse=True)
    assert verdict.max_risk == risks[0]
    for category, (lower, upper) in verdict.interval(0.9).items():
        alpha, beta = verdict.alpha[category], verdict.beta[category]
        assert scipy.stats.beta.cdf(upper, alpha, beta) - scipy.stats.beta.cdf(lower, alpha, beta) == pytest.approx(
            0.9, abs=1e-3
        )
        assert verdict.std[category] == pytest.approx(scipy.stats.beta.std(alpha, beta), rel=1e-4)
    assert model.assess("the cat", "sat on the mat", risk_threshold=0.99)[0].is_safe


@pytest.fixture(scope="module")
def detector_of(tiny_detector):
    # The same detector, made to say Beta(alpha, beta) of every pair.
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)

    def say(alpha, beta):
        for layer, values in ((model.rejection_head.alpha, alpha), (model.rejection_head.beta, beta)):
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data = torch.as_tensor(values, dtype=torch.float32).expand(14).log()
        return model

    return say


LEVELS = (None, *EFFORTS)
beta_parameters = st.lists(st.floats(0.01, 100), min_size=14, max_size=14)
levels = st.floats(0.01, 0.99)


def ranks(verdict):
    return [LEVELS.index(verdict.effort.get(category)) for category in verdict.mean]


def test_a_category_is_held_against_its_own_threshold(detector_of):
    model = detector_of(2.0, 6.0)  # means of 0.25, under the configuration's τ of 0.3
    verdict = model.assess("the cat", risk_threshold={"self_harm": 0.2, "privacy_violation": 0.26})[0]
    assert verdict.effort == {"self_harm": "Minor"}
    assert not verdict.is_safe


def test_a_category_switched_off_draws_no_effort_and_keeps_its_risk(detector_of):
    model = detector_of([9.0] * 2 + [1.0] * 12, [1.0] * 2 + [9.0] * 12)
    first, second = model.config.categories[:2]
    one_off = model.assess("the cat", risk_threshold={first: None})[0]
    assert one_off.effort == {second: "Severe"}
    assert one_off.mean[first] == one_off.max_risk == pytest.approx(0.9)
    assert model.assess("the cat", risk_threshold={first: None, second: None})[0].is_safe


def test_a_threshold_by_name_for_all_categories_is_the_one_for_all(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    by_name = model.assess("the cat", "sat", risk_threshold=dict.fromkeys(model.config.categories, 0.45))
    assert by_name == model.assess("the cat", "sat", risk_threshold=0.45)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk_threshold": {"gossip": 0.5}}, "risk_threshold names 'gossip'"),
        ({"risk_threshold": {"self_harm": 1.0}}, r"risk_threshold\['self_harm'\] must lie between 0 and 1"),
        ({"risk_threshold": 0.0}, "risk_threshold must lie between 0 and 1"),
        ({"uncertainty": 0.0}, "uncertainty must lie between 0 and 1"),
        ({"uncertainty": 1}, "uncertainty must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_assess_names_an_option_out_of_range(detector_of, options, message):
    with pytest.raises(ValueError, match=message):
        detector_of(1.0, 1.0).assess("the cat", **options)


def test_an_unsure_risk_counts_as_higher_than_a_sure_one(detector_of):
    sure = detector_of(200.0, 600.0).assess("the cat", uncertainty=0.9)[0]
    unsure = detector_of(2.0, 6.0).assess("the cat", uncertainty=0.9)[0]
    assert sure.max_risk == pytest.approx(unsure.max_risk) == pytest.approx(0.25)
    assert sure.is_safe
    assert set(unsure.effort.values()) == {"Mild"}  # the interval ends at 0.52


def test_with_uncertainty_the_upper_end_of_the_interval_decides(detector_of):
    model = detector_of(2.0, 6.0)
    plain = model.assess("the cat", risk_threshold=0.2)[0]
    _, upper = plain.interval(0.8)["self_harm"]
    for threshold, is_safe in ((upper - 1e-3, False), (upper + 1e-3, True)):
        verdict = model.assess("the cat", risk_threshold=threshold, uncertainty=0.8)[0]
        assert verdict.is_safe == is_safe
        assert (verdict.mean, verdict.std, verdict.alpha, verdict.beta) == (
            plain.mean,
            plain.std,
            plain.alpha,
            plain.beta,
        )


def test_with_uncertainty_the_effort_stands_in_the_order_of_the_upper_ends(detector_of):
    model = detector_of([30.0, 1.0] + [0.1] * 12, [40.0, 1.5] + [10.0] * 12)
    sure, unsure = model.config.categories[:2]
    assert list(model.assess("the cat")[0].effort.items()) == [(sure, "Minor"), (unsure, "Minor")]
    assert list(model.assess("the cat", uncertainty=0.9)[0].effort.items()) == [(unsure, "Severe"), (sure, "Mild")]


def test_a_category_switched_off_stays_off_under_uncertainty(detector_of):
    model = detector_of(2.0, 6.0)
    off = dict.fromkeys(model.config.categories[1:])
    assert list(model.assess("the cat", risk_threshold=off, uncertainty=0.9)[0].effort) == model.config.categories[:1]


@settings(max_examples=60)
@given(beta_parameters, beta_parameters, levels, levels)
@example([2.0] * 14, [5.0] * 14, 0.05, 0.285)  # the mean, 2/7, lies above the narrow interval about the median
@example([0.01] * 14, [0.01] * 14, 0.5, 0.4)
def test_uncertainty_never_lowers_an_effort(detector_of, alpha, beta, level, threshold):
    model = detector_of(alpha, beta)
    plain = model.assess("the cat", risk_threshold=threshold)[0]
    careful = model.assess("the cat", risk_threshold=threshold, uncertainty=level)[0]
    assert all(rank <= raised for rank, raised in zip(ranks(plain), ranks(careful), strict=True))


@settings(max_examples=60)
@given(beta_parameters, beta_parameters, levels, levels)
def test_a_wider_interval_never_lowers_an_effort(detector_of, alpha, beta, one, other):
    narrow, wide = (detector_of(alpha, beta).assess("the cat", uncertainty=level)[0] for level in sorted((one, other)))
    assert all(rank <= raised for rank, raised in zip(ranks(narrow), ranks(wide), strict=True))


def test_an_over_long_pair_loses_the_end_of_its_longer_side_only_in_training(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    limit = model.config.max_length
    for prompt, response in [("bread " * 3 * limit, "busy street"), ("busy street", "bread " * 3 * limit)]:
        encodings, dropped = model.encode_pairs([prompt], [response])
        kept = model.tokenizer.decode(encodings[0]["input_ids"])
        assert len(encodings[0]["input_ids"]) == limit
        assert dropped[0] == 3 * limit + 2 + 3 - limit
        assert "busy street" in kept


@pytest.mark.parametrize("pair", [("a cat [SEP] a dog", None), ("[CLS] cat [PAD]", "a dog [SEP] [MASK] " * 60)])
def test_a_special_token_in_a_text_stays_text(tiny_detector, pair):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    windows = model._encode_windows([pair])[0]
    (in_training,), _ = model.encode_pairs(*([side] for side in pair))
    for encoding in (in_training, *windows):
        special = [token for token in encoding["input_ids"] if token in model.tokenizer.all_special_ids]
        spelled = [model.tokenizer.cls_token_id] + [model.tokenizer.sep_token_id] * (1 if pair[1] is None else 2)
        assert [token for token in special if token != model.tokenizer.unk_token_id] == spelled


class WordWatcher:
    """Stands for the encoder and its heads: the risk of a category is how often its word stands in the window."""

    WORDS = ("bread", "street")

    def __init__(self, model):
        self.tokenizer, self.seen = model.tokenizer, []
        self.ids = model.tokenizer.convert_tokens_to_ids(list(self.WORDS))

    def __call__(self, batch):
        windows = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        self.seen += [window.tolist() for window in windows]
        alpha = torch.ones(len(windows), 14)
        for row, window in enumerate(windows):
            for category, word in enumerate(self.ids):
                alpha[row, category] += (window == word).sum()
        return alpha, torch.ones_like(alpha)


@pytest.fixture
def watched(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    model.concentrations = WordWatcher(model)
    return model


@pytest.mark.parametrize("longer", ["prompt", "response"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_every_window_of_an_over_long_pair_counts_wherever_its_words_stand(watched, longer, place):
    limit = watched.config.max_length
    filler = int(3 * limit * place)
    long = "busy " * filler + "bread bread bread " + "busy " * (3 * limit - filler)
    pair = (long, "a street") if longer == "prompt" else ("a street", long)
    verdict = watched.assess([*(["the"] * 3), pair[0]], [*(["mat"] * 3), pair[1]], batch_size=2)[3]
    bread, street = list(verdict.mean.values())[:2]
    assert bread == pytest.approx(4 / 5)  # three of its word
    assert street == pytest.approx(2 / 3)  # the shorter side stands in each window
    for window in watched.concentrations.seen:
        assert len(window) <= limit
        assert len(window) < 10 or watched.concentrations.ids[1] in window


def test_the_windows_of_a_pair_leave_no_token_out(watched):
    limit = watched.config.max_length
    words = ["bread", "street", "busy"]
    text = " ".join(words[(place * place) % 3] for place in range(5 * limit))
    watched.assess(text)
    rest = watched.tokenizer(text, add_special_tokens=False)["input_ids"]
    step = limit - watched.tokenizer.num_special_tokens_to_add(pair=False) - limit // 8
    special = set(watched.tokenizer.all_special_ids)
    windows = [[token for token in window if token not in special] for window in watched.concentrations.seen]
    for place, window in enumerate(sorted(windows, key=len, reverse=True)[:-1]):
        assert rest[place * step : place * step + len(window)] == window
    assert sum(map(len, windows)) == len(rest) + (len(windows) - 1) * (limit // 8)


@pytest.mark.parametrize("lengths", [(3, 2), (2, 5), (0.6, 0.6), (8, 0.5)])  # in windows
@pytest.mark.parametrize("place", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("side", [0, 1])
def test_where_both_sides_are_over_long_no_word_of_either_goes_unread(watched, lengths, place, side):
    limit = watched.config.max_length
    texts = [["busy"] * round(length * limit) for length in lengths]
    texts[side].insert(round(place * len(texts[side])), "bread")
    verdict = watched.assess(*(" ".join(words) for words in texts))[0]
    assert list(verdict.mean.values())[0] == pytest.approx(2 / 3)
    assert all(len(window) <= limit for window in watched.concentrations.seen)


def test_with_uncertainty_each_category_keeps_the_window_whose_upper_end_is_the_highest():
    # One category, two windows: the less risky one is far less sure.
    alpha, beta = torch.tensor([[2.8], [290.0]]), torch.tensor([[7.2], [710.0]])
    concentrations = torch.stack([alpha, beta])
    assert assessment._riskiest_window(concentrations, None)[0] == 290
    assert assessment._riskiest_window(concentrations, 0.8)[0] == pytest.approx(2.8)


def test_windows_over_either_side_hold_the_beginning_of_the_other(watched):
    limit = watched.config.max_length
    watched.assess("bread " * 2 * limit, "street " * 3 * limit)
    room = (limit - watched.tokenizer.num_special_tokens_to_add(pair=True)) // 2
    bread, street = watched.concentrations.ids
    counts = [(window.count(bread), window.count(street)) for window in watched.concentrations.seen]
    assert all(room in pair for pair in counts)
    # Each side once more as windows of its own, which share an eighth of a window.
    for own, words in ((0, 2 * limit), (1, 3 * limit)):
        over = [pair[own] for pair in counts if pair[1 - own] == room]
        assert sum(over) - (len(over) - 1) * (limit // 8) == words


def test_the_windows_of_a_pair_grow_in_number_as_its_length_does(watched):
    numbers = []
    for times in (8, 16, 32):
        watched.concentrations.seen.clear()
        watched.assess("bread " * times * watched.config.max_length, "street " * times * watched.config.max_length)
        numbers.append(len(watched.concentrations.seen))
    assert numbers[2] - numbers[1] == pytest.approx(2 * (numbers[1] - numbers[0]), abs=4)


def test_a_side_without_tokens_stands_beside_an_over_long_one(watched):
    verdict = watched.assess("bread " * 3 * watched.config.max_length, "\u200b")[0]
    assert verdict.max_risk > 0.9


def test_an_iterator_is_read_as_its_results_are(watched):
    taken = []

    def prompts():
        for number in range(1000):
            taken.append(number)
            yield "bread " * (number % 5 + 1)

    results = watched.assess(prompts(), batch_size=1)
    assert taken == []
    first = next(results)
    assert len(taken) == 64  # batches at a time
    rest = list(results)
    assert [list(verdict.mean.values())[0] for verdict in [first, *rest]] == pytest.approx(
        [(number % 5 + 2) / (number % 5 + 3) for number in range(1000)]
    )


class SourceError(Exception):
    pass


@pytest.mark.parametrize("read", [0, 1, 63, 64, 65, 130])  # 64 are taken at a time
@pytest.mark.parametrize("side", ["prompts", "responses"])
def test_what_was_read_before_a_fault_of_the_iterator_is_yielded_first(watched, read, side):
    def texts():
        yield from ["bread"] * read
        raise SourceError

    sides = (texts(), None) if side == "prompts" else (iter(["bread"] * 200), texts())
    results = watched.assess(*sides, batch_size=1)
    assert len([next(results) for _ in range(read)]) == read
    with pytest.raises(SourceError):
        next(results)


@pytest.mark.parametrize("fault", [("a \ud800", "no"), ("a", "no \ud800"), ("a", 5), (None, "no"), (5, None)])
def test_what_is_no_text_comes_behind_the_results_of_the_pairs_before_it(watched, fault):
    prompts, responses = zip(*[("bread", "street")] * 3, fault, strict=True)
    results = watched.assess(iter(prompts), responses)
    assert len([next(results) for _ in range(3)]) == 3
    with pytest.raises(ValueError, match=r"(prompt|response) 3 "):
        next(results)


def test_a_blank_prompt_comes_behind_the_results_of_the_prompts_before_it(watched):
    results = watched.assess(iter(["bread", "street", " "]))
    assert [list(next(results).mean.values())[:2] for _ in range(2)] == [
        pytest.approx([2 / 3, 1 / 2]),
        pytest.approx([1 / 2, 2 / 3]),
    ]
    with pytest.raises(ValueError, match="prompt 2 is empty"):
        next(results)


class GuardedTokenizer:
    """Stands before a tokenizer, and refuses a second thread while one is in it."""

    def __init__(self, tokenizer):
        self.tokenizer, self.busy, self.called = tokenizer, Lock(), Event()

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **options):
        return self.alone(self.tokenizer, *args, **options)

    def pad(self, *args, **options):
        return self.alone(self.tokenizer.pad, *args, **options)

    def alone(self, call, *args, **options):
        assert self.busy.acquire(blocking=False), "two threads use the tokenizer at once"
        try:
            self.called.set()
            sleep(0.005)  # long enough for another thread to come along
            return call(*args, **options)
        finally:
            self.busy.release()


@pytest.fixture
def guarded(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    model.tokenizer = GuardedTokenizer(model.tokenizer)
    return model


def test_one_thread_at_a_time_uses_the_tokenizer(guarded):
    prompts = ["bread " * (number % 7 + 1) for number in range(300)] + ["street " * 300] * 2
    ours, theirs = (guarded.assess(iter(prompts), batch_size=2) for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        assert one == other
        guarded.tokenizer("the cat")  # between two results it is the caller's


def test_threads_that_share_a_detector_take_turns_at_its_tokenizer(guarded):
    guarded.tokenizer.pad = guarded.tokenizer.tokenizer.pad  # which keeps nothing between calls
    prompts = ["bread", "street " * 300, "the cat"]
    expected = guarded.assess(prompts)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: guarded.assess(prompts), range(12))) == [expected] * 12


def test_pairs_are_encoded_while_those_before_are_scored(guarded):
    concentrations, waited = guarded.concentrations, []

    def wait_for_the_tokenizer(batch):
        if not waited:
            guarded.tokenizer.called.clear()
            waited.append(guarded.tokenizer.called.wait(timeout=60))
        return concentrations(batch)

    guarded.concentrations = wait_for_the_tokenizer
    guarded.assess(["bread"] * 16, batch_size=1)  # as many as are taken at a time, but the first goes ahead
    assert waited == [True]


def test_risks_are_the_same_whatever_is_encoded_at_a_time(tiny_detector, monkeypatch):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    prompts = [f"{'bread ' * (number * 7 % 50 + 1)} street" for number in range(60)]
    responses = ["garden " * (number * 11 % 200) for number in range(60)]
    expected = [[*verdict.mean.values()] for verdict in model.assess(prompts, responses)]
    for held, encoded in ((1, 1), (7, 2), (64, 3)):
        monkeypatch.setattr(getmodule(type(model).assess), "_BATCHES_HELD", held)
        monkeypatch.setattr(getmodule(type(model).assess), "_BATCHES_ENCODED", encoded)
        risks = [[*verdict.mean.values()] for verdict in model.assess(iter(prompts), iter(responses), batch_size=2)]
        torch.testing.assert_close(torch.tensor(risks), torch.tensor(expected), rtol=0, atol=1e-6)


def test_an_iterator_pairs_up_with_its_responses(watched):
    verdicts = list(watched.assess(iter(["bread", "street"]), iter(["street street", None])))
    assert [list(verdict.mean.values())[:2] for verdict in verdicts] == [
        pytest.approx([2 / 3, 3 / 4]),
        pytest.approx([1 / 2, 2 / 3]),
    ]
    with pytest.raises(ValueError, match="there are 1 responses only"):
        list(watched.assess(iter(["cat", "dog"]), iter(["mat"])))


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["cat", " "], None, "prompt 1 is empty"),
        (["cat"], ["dog", "mat"], "must pair up, but there are 1 prompts only"),
        ({"prompt": "cat", "response": "dog"}, None, "prompts must be a list of texts, got a dict"),
        (["cat"], {"cat": "dog"}, "responses must be a list of texts, got a dict"),
    ],
)
def test_assess_refuses_what_it_cannot_pair(tiny_detector, prompts, responses, message):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    with pytest.raises(ValueError, match=message):
        model.assess(prompts, responses)


def test_a_single_text_is_no_list_to_encode(tiny_detector):
    with pytest.raises(ValueError, match="prompts must be a list of texts, got a str"):
        AutoModel.from_pretrained(tiny_detector, trust_remote_code=True).encode_pairs("the cat")
