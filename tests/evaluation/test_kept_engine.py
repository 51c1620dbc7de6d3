from dataclasses import replace

import pytest

from evaluation.kept_engine import KeptEngine
from generation.base import Completion, GenerationError, PromptTooLongError, SamplingParameters

GREEDY = SamplingParameters(max_new_tokens=8)
WARM = replace(GREEDY, temperature=0.7)


def user(text):
    return [{"role": "user", "content": text}]


class Dice:
    """Numbers its completions: none comes twice. What is in `faults` fails."""

    name, batch_size, follows_schema = "dice", 4, False

    def __init__(self):
        self.drawn, self.seeds, self.faults = [], [], set()

    def generate(self, chats, sampling):
        places = {place: chat[-1]["content"] for place, chat in enumerate(chats)}
        if "too long" in places.values():
            raise PromptTooLongError(list(places.values()).index("too long"), 9, 8, "too long")
        failed = {place: "gone" for place, text in places.items() if text in self.faults}
        completions = {}
        for place in places.keys() - failed.keys():
            self.drawn.append(places[place])
            self.seeds.append(sampling.seed + place)
            completions[place] = Completion(f"{places[place]} {len(self.drawn)}", 1, 1, "stop")
        if failed:
            raise GenerationError("some failed", failed, completions)
        return list(completions.values())


@pytest.fixture
def dice():
    return Dice()


@pytest.fixture
def open_engine(dice, tmp_path):
    """The engine as each process of a run has it."""
    return lambda: KeptEngine(dice, tmp_path / "completions")


def texts(engine, *names, sampling=WARM):
    return [completion.text for completion in engine.generate([user(name) for name in names], sampling)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_what_one_process_generated_no_later_one_generates_again(open_engine, dice, sampling):
    first = texts(open_engine(), "a", "b", sampling=sampling)
    assert texts(open_engine(), "a", "b", sampling=sampling) == first
    assert len(dice.drawn) == 2


def test_equal_chats_of_a_batch_are_draws_of_their_own(open_engine, dice):
    first = texts(open_engine(), "a", "a", "b", "a")
    assert len(set(first)) == 4
    assert texts(open_engine(), "a", "a", "b", "a") == first
    assert len(dice.drawn) == 4


def test_a_request_that_comes_again_is_another_draw_in_the_same_order_after_a_restart(open_engine, dice):
    engine = open_engine()
    first = [texts(engine, "a", "a"), texts(engine, "a"), texts(engine, "a")]
    again = open_engine()
    assert [texts(again, "a", "a"), texts(again, "a"), texts(again, "a")] == first
    assert len({*first[0], *first[1], *first[2]}) == len(dice.drawn) == 4
    assert texts(again, "a") == ["a 5"]


def test_other_company_in_the_batch_and_another_seed_find_what_was_kept(open_engine, dice):
    first = texts(open_engine(), "a", "a", "b")
    later = texts(open_engine(), "c", "b", "a", "a", sampling=replace(WARM, seed=2000))
    assert later[1:] == [first[2], *first[:2]]
    assert dice.drawn == ["a", "a", "b", "c"]


@pytest.mark.parametrize("change", [{"max_new_tokens": 9}, {"top_p": 0.9}, {"temperature": 0.8}])
def test_another_way_of_sampling_is_another_request(open_engine, dice, change):
    texts(open_engine(), "a")
    texts(open_engine(), "a", sampling=replace(WARM, **change))
    assert len(dice.drawn) == 2


def test_another_model_is_another_request(open_engine, dice):
    texts(open_engine(), "a")
    dice.name = "other dice"
    texts(open_engine(), "a")
    assert len(dice.drawn) == 2


def test_what_is_drawn_beside_kept_draws_has_other_seeds_than_they_had(open_engine, dice):
    texts(open_engine(), "a", "a")
    texts(open_engine(), "a", "a", "a", "a")
    assert len(set(dice.seeds)) == len(dice.seeds) == 4


def test_a_failure_is_not_kept_and_what_the_others_got_is(open_engine, dice):
    texts(open_engine(), "c")
    dice.faults = {"b"}
    with pytest.raises(GenerationError) as raised:
        texts(open_engine(), "a", "b", "c")
    assert raised.value.failures == {1: "gone"}
    kept = {place: reply.text for place, reply in raised.value.completions.items()}
    assert kept == {0: "a 2", 2: "c 1"}
    assert raised.value.too_long == frozenset()
    dice.faults = set()
    assert texts(open_engine(), "a", "b", "c") == ["a 2", "b 3", "c 1"]


def test_a_chat_that_is_too_long_is_marked_at_its_own_place_and_costs_the_others_no_draw(open_engine, dice):
    texts(open_engine(), "a")
    engine = open_engine()
    with pytest.raises(GenerationError) as raised:
        texts(engine, "a", "b", "too long")
    assert (raised.value.too_long, [*raised.value.completions]) == ({2}, [0])
    assert texts(engine, "b") == ["b 2"]
    assert dice.drawn == ["a", "b"]


def test_the_engine_behind_shows_through(open_engine, dice):
    engine = open_engine()
    assert (engine.name, engine.batch_size, engine.follows_schema) == ("dice", 4, False)
