import tomllib
from itertools import permutations
from pathlib import Path

import pytest

from detector import detector_class
from refinement import constructive
from refinement.constructive import constructive_reply

CATEGORIES = detector_class().config_class().categories
TEXTS = tomllib.loads(Path(constructive.__file__).with_name("constructive_replies.toml").read_text(encoding="utf-8"))


def test_every_category_has_texts_of_its_own():
    assert set(TEXTS) == {*CATEGORIES, "other", "reply", "unanswered"}
    for part in ("cannot", "can"):
        assert len({TEXTS[category][part] for category in [*CATEGORIES, "other"]}) == len(CATEGORIES) + 1


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_reply_names_what_it_will_not_do_before_what_it_can(category):
    reply = constructive_reply([category])
    assert reply.index(TEXTS[category]["cannot"]) < reply.index(TEXTS[category]["can"])


def test_the_riskiest_two_are_named_the_riskiest_first_and_no_other():
    reply = constructive_reply(["self_harm", "privacy_violation", "animal_abuse"])
    for part in ("cannot", "can"):
        assert reply.index(TEXTS["self_harm"][part]) < reply.index(TEXTS["privacy_violation"][part])
        assert TEXTS["animal_abuse"][part] not in reply


@pytest.mark.parametrize("categories", [["a new category"], ["one", "another"], ["{cannot}", "{0}"]])
def test_unknown_categories_share_the_general_text(categories):
    reply = constructive_reply(categories)
    assert reply.count(TEXTS["other"]["cannot"]) == 1
    assert reply.count(TEXTS["other"]["can"]) == 1


def test_every_reply_is_one_paragraph_of_whole_sentences():
    for categories in [[], *permutations([*CATEGORIES, "a new category"], 2)]:
        reply = constructive_reply(categories)
        assert reply == " ".join(reply.split())
        assert reply[0].isupper()
        assert reply.endswith(".")
        assert not set(reply) & set("{}_")
