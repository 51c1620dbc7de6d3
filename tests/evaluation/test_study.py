from pathlib import Path

import pytest

from evaluation.study import METHODS, Backbone, Study, StudyError, load_study

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = "backbones: [{name: A, engine: embedded}]\n"


def study_of(tmp_path, text, **overrides):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path, **overrides)


def test_the_papers_study_holds_its_models():
    study = load_study(CONFIGS / "paper.yaml")
    assert [backbone.name for backbone in study.backbones] == [
        *("Llama3-8B", "Llama3.1-8B", "Qwen2.5-7B"),
        *("Kimi-k2", "Qwen3-Max", "Gemini-2.5-Pro", "GPT-4o"),
    ]
    assert [backbone.commercial for backbone in study.backbones] == [False] * 3 + [True] * 4
    assert all(backbone.instruct and backbone.repe for backbone in study.backbones[:3])
    assert study.refiner.startswith("vllm:Qwen/Qwen2.5-1.5B-Instruct?")
    assert study.prompt_count == 500


def test_the_embedded_study_needs_nothing_from_elsewhere():
    study = load_study(CONFIGS / "embedded.yaml")
    engines = [engine for backbone in study.backbones for engine in (backbone.engine, backbone.instruct)]
    assert {*engines, study.refiner, study.coarse_refiner, *study.judges} == {"embedded"}
    assert study.prompt_count % 14 == 0


def test_a_backbone_takes_part_in_what_it_can():
    study = Study(backbones=(Backbone("A", "x"), Backbone("B", "x", instruct="y"), Backbone("C", "x", commercial=True)))
    assert study.methods_of(study.backbones[0]) == [method for method in METHODS if method != "instruct"]
    assert study.methods_of(study.backbones[1]) == [*METHODS]
    assert study.methods_of(study.backbones[2]) == ["vanilla"]


def test_the_command_line_overrides_the_file(tmp_path):
    study = study_of(tmp_path, MINIMAL + "seed: 1\n", prompts="mine.jsonl", seed=2)
    assert (study.prompts, study.seed) == ("mine.jsonl", 2)


def test_what_may_grow_within_a_run_is_not_fixed(tmp_path):
    small, grown = study_of(tmp_path, MINIMAL), study_of(tmp_path, MINIMAL + "judges: [embedded]\nmethods: [lance]\n")
    assert small.fixed() == grown.fixed()
    assert small.fixed() != study_of(tmp_path, MINIMAL + "seed: 1\n").fixed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected fields with values"),
        ("backbones: [", "can't be read"),
        ("seed: 1", "backbones: expected a list"),
        ("backbones: []", "backbones: name at least one"),
        ("backbones: [A]", "backbone: expected fields with values, got 'A'"),
        ("backbones: [{name: A}]", "one lacks 'engine'"),
        ("backbones: [{name: A, engine: x, colour: red}]", "colour: no such field"),
        ("backbones: [{name: A, engine: x}, {name: A, engine: y}]", "'A' stands there twice"),
        (MINIMAL + "methods: [vanila]", "'vanila' is none of vanilla,"),
        (MINIMAL + "methods: lance", "methods: expected a list"),
        (MINIMAL + "judges: [a, a]", "judges: 'a' stands there twice"),
        (MINIMAL + "seed: x", "seed: 'x' is of the wrong kind"),
        (MINIMAL + "seed: true", "seed: True is of the wrong kind"),
        (MINIMAL + "prompt_count: 0", "prompt_count: must be at least 1"),
        (MINIMAL + "max_steps: -1", "max_steps and seed: must be at least 0"),
        (MINIMAL + "risk_threshold: 1", "risk_threshold: must lie between 0 and 1"),
        (MINIMAL + "prices: {embedded: 3}", "prices: embedded: expected two numbers"),
        (MINIMAL + "prices: 3", "prices: 3 is of the wrong kind"),
    ],
)
def test_a_fault_is_named_with_its_file_and_field(tmp_path, text, message):
    with pytest.raises(StudyError, match=rf"study\.yaml: .*{message}"):
        study_of(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StudyError, match="nowhere.yaml: can't be read"):
        load_study(tmp_path / "nowhere.yaml")
