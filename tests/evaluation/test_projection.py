import pytest

from evaluation.assembly import most_calls
from evaluation.projection import Projection, project, projection_table
from evaluation.study import METHODS, Backbone, Study
from refinement.loop import REWRITE_TOKENS

ONE = Backbone("A", "openai:a@http://h/v1")


def projected(study, prompts=("x" * 40, "x" * 40)):
    return {row.engine: row for row in project(study, prompts, most_calls(study))}


def test_a_method_that_asks_once_costs_a_call_a_prompt():
    (row,) = projected(Study((ONE,), methods=("vanilla",), max_new_tokens=50)).values()
    assert (row.engine, row.calls, row.written) == (ONE.engine, 2, 100)
    assert row.read >= 2 * 10


def test_the_loop_is_counted_to_its_last_step():
    study = Study((ONE,), methods=("lance",), refiner="embedded", max_steps=5, candidates=2)
    rows = projected(study)
    assert rows[ONE.engine].calls == 2 * 6
    assert rows["embedded"].calls == 2 * 2 * 2 * 5  # prompts, tries, candidates, steps
    assert rows["embedded"].written == rows["embedded"].calls * REWRITE_TOKENS


def test_a_long_prompt_s_rewrites_are_counted_at_the_length_they_may_have():
    study = Study((ONE,), methods=("lance",), refiner="embedded", max_steps=5, candidates=2)
    for longest, room in ((300, 1024), (20_000, 4096)):  # four times as long, of two characters a token
        row = projected(study, ["x" * 40, "x" * longest])["embedded"]
        assert row.written == row.calls * room


def test_each_role_goes_to_its_own_engine():
    backbone = Backbone("A", "vllm:a", instruct="vllm:b", repe="transformers:a")
    study = Study((backbone,), refiner="vllm:r", coarse_refiner="vllm:c", judges=("vllm:j",), max_steps=2, candidates=1)
    rows = projected(study)
    assert {engine: row.calls for engine, row in rows.items()} == {
        "vllm:a": 2 * (1 + 1 + 5 + 3 + 1 + 1),  # vanilla, sysprompt, selfrefine, lance, lance-nr, lance-nf
        "vllm:b": 2,
        "transformers:a": 2,
        "vllm:r": 2 * 4,
        "vllm:c": 2 * 2,
        "vllm:j": 2 * 3 * len(METHODS),
    }


def test_a_judges_replies_are_counted_at_their_limit():
    study = Study((ONE,), methods=("vanilla",), judges=("vllm:j",), judge_max_new_tokens=1000)
    assert projected(study)["vllm:j"].written == 2 * 3 * 1000


def test_a_commercial_backbone_only_answers():
    study = Study((Backbone("C", "openai:c@http://h/v1", commercial=True),), judges=("vllm:j",))
    assert {engine: row.calls for engine, row in projected(study).items()} == {
        "openai:c@http://h/v1": 2,
        "vllm:j": 2 * 3,
    }


def test_dollars_are_counted_from_both_sides_and_unknown_without_a_price():
    row = Projection("e", calls=1, read=2_000_000, written=1_000_000)
    assert row.dollars({"e": (0.5, 2.0)}) == pytest.approx(3.0)
    assert row.dollars({"other": (0.5, 2.0)}) is None


def test_every_method_tells_its_most_calls():
    assert most_calls(Study((ONE,))).keys() == {*METHODS}


def test_the_table_sums_the_dollars_only_where_all_are_known():
    rows = [Projection("a", 1, 1_000_000, 0), Projection("b", 2, 0, 1_000_000)]
    whole = projection_table(rows, {"a": (1.0, 2.0), "b": (3.0, 4.0)}).splitlines()
    assert whole[-1].split("|")[1:-1] == [" all ", " 3 ", " 1,000,000 ", " 1,000,000 ", " 5.00 "]
    assert projection_table(rows, {"a": (1.0, 2.0)}).splitlines()[-1].endswith("| - |")
