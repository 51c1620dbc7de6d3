import pytest

from detector import detector_class
from refinement.gradient import DIRECTIONS, STEP_SIZES, category_gradient, textual_gradient

CATEGORIES = detector_class().config_class().categories


def test_the_gradient_has_one_line_for_each_unsafe_category_the_riskiest_first():
    risk = {"privacy_violation": 0.35, "self_harm": 0.9, "animal_abuse": 0.1, "child_abuse": 0.6}
    effort = {"privacy_violation": "Minor", "child_abuse": "Mild", "self_harm": "Severe"}
    lines = textual_gradient(risk, effort).split("\n")
    assert [line.partition(" (")[0] for line in lines] == ["- self harm", "- child abuse", "- privacy violation"]
    assert "(risk 0.90, Severe)" in lines[0]
    assert "(risk 0.60, Mild)" in lines[1]
    assert "(risk 0.35, Minor)" in lines[2]


@pytest.mark.parametrize("effort", ["Minor", "Mild", "Severe"])
def test_a_line_holds_its_direction_and_the_step_size_of_its_effort(effort):
    line = category_gradient("privacy_violation", 0.4, effort)
    assert DIRECTIONS["privacy_violation"] in line
    assert [name for name, step_size in STEP_SIZES.items() if step_size in line] == [effort]


def test_a_safe_pair_has_an_empty_gradient():
    assert textual_gradient({"self_harm": 0.2, "child_abuse": 0.1}, {}) == ""


def test_every_category_of_the_detector_has_its_own_direction():
    assert set(DIRECTIONS) == set(CATEGORIES)
    assert len(set(DIRECTIONS.values())) == len(CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_line_reads_without_code_spellings(category):
    line = category_gradient(category, 0.8, "Severe")
    assert "_" not in line
    assert "\n" not in line


def test_an_unknown_category_gets_the_general_direction():
    line = category_gradient("some_new,risk", 0.8, "Severe")
    assert line.startswith("- some new, risk (risk 0.80, Severe): Move away from what makes it harmful")
