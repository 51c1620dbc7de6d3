import json
from pathlib import Path

import pytest

from evaluation.store import RunStore, StoreError
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


SMALL = MINIMAL + "methods: [vanilla, lance]\njudges: [embedded]\n"
GROWN = [
    SMALL.replace("lance]", "lance, lance-nr]"),
    SMALL.replace("}]", "}, {name: B, engine: 'vllm:b'}]"),
    SMALL.replace("embedded}]", "embedded, instruct: 'vllm:i', repe: 'transformers:a'}]"),
    SMALL.replace("s: [embedded]", "s: [embedded, 'vllm:j']"),
    SMALL.replace("[vanilla, lance]", "[lance]"),
    SMALL + "prices: {embedded: [1, 2]}\n",
    SMALL + "judge_max_new_tokens: 2048\n",
]
CHANGED = [
    (SMALL.replace("engine: embedded", "engine: 'vllm:a'"), "engines.A.vanilla 'embedded', not 'vllm:a'"),
    (
        SMALL.replace("engine: embedded", "engine: 'embedded?dtype=float16'"),
        "engines.A.vanilla 'embedded', not 'embedded?dtype=float16'",
    ),
    (SMALL + "refiner: 'vllm:r'\n", "refiner 'embedded', not 'vllm:r'"),
    (SMALL + "coarse_refiner: 'vllm:r'\n", "coarse_refiner None, not 'vllm:r'"),
    (SMALL.replace("s: [embedded]", "s: ['vllm:j']"), "judges ['embedded'], not ['vllm:j']"),
    (SMALL + "seed: 1\n", "seed 0, not 1"),
    (SMALL + "repe_direction: pca\n", "repe_direction None, not 'pca'"),
    (SMALL + "repe_layers: [1, 2]\n", "repe_layers None, not '1, 2'"),
]


@pytest.mark.parametrize("grown", GROWN)
def test_methods_backbones_and_judges_may_be_added_within_a_run(tmp_path, grown):
    for text in (SMALL, grown):
        RunStore(tmp_path / "run", study_of(tmp_path, text).fixed(), {}).__exit__()


@pytest.mark.parametrize(("changed", "named"), CHANGED)
def test_no_engine_and_nothing_else_that_answers_depend_on_may_change_within_a_run(tmp_path, changed, named):
    RunStore(tmp_path / "run", study_of(tmp_path, SMALL).fixed(), {}).__exit__()
    with pytest.raises(StoreError) as raised:
        RunStore(tmp_path / "run", study_of(tmp_path, changed).fixed(), {})
    assert f"begun with {named};" in str(raised.value)


def test_a_runs_layers_do_not_go_on_at_their_end_as_its_judges_do(tmp_path):
    begun, longer = (study_of(tmp_path, SMALL + f"repe_layers: {layers}\n").fixed() for layers in ([1], [1, 2]))
    RunStore(tmp_path / "run", begun, {}).__exit__()
    with pytest.raises(StoreError, match="begun with repe_layers '1', not '1, 2'"):
        RunStore(tmp_path / "run", longer, {})


def test_a_study_comes_back_from_its_manifest():
    study = load_study(CONFIGS / "paper.yaml", prices={"embedded": [1, 2]}, repe_layers=[3, 4])
    assert study.repe_layers == (3, 4)
    assert Study.from_config(json.loads(json.dumps(study.as_config()))) == study


NEWER = ("judge_max_new_tokens", "repe_direction", "repe_layers")


def test_a_run_from_before_a_field_was_there_loads_and_goes_on(tmp_path):
    study = study_of(tmp_path, SMALL)
    config, fixed = (
        {name: value for name, value in values.items() if name not in NEWER}
        for values in (study.as_config(), study.fixed())
    )
    assert Study.from_config(config) == study
    RunStore(tmp_path / "run", fixed, {}).__exit__()
    RunStore(tmp_path / "run", study.fixed(), {}).__exit__()


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
        (MINIMAL + f"seed: {2**70}", r"seed: must lie between 0 and 2\*\*63 - 1"),
        (MINIMAL + "methods: [vanila]", "'vanila' is none of vanilla,"),
        (MINIMAL + "methods: lance", "methods: expected a list"),
        (MINIMAL + "judges: [a, a]", "judges: 'a' stands there twice"),
        (MINIMAL + "seed: x", "seed: 'x' is of the wrong kind"),
        (MINIMAL + "seed: true", "seed: True is of the wrong kind"),
        (MINIMAL + "prompt_count: 0", "prompt_count: must be at least 1"),
        (MINIMAL + "max_steps: -1", "max_steps: must be at least 0"),
        (MINIMAL + "risk_threshold: 1", "risk_threshold: must lie between 0 and 1"),
        (MINIMAL + "repe_coefficient: -0.1", "repe_coefficient: must be finite and at least 0, got -0.1"),
        (MINIMAL + "repe_coefficient: .inf", "repe_coefficient: must be finite"),
        (MINIMAL + "repe_coefficient: .nan", "repe_coefficient: must be finite"),
        (MINIMAL + "judge_max_new_tokens: 0", "judge_max_new_tokens: must be at least 1, got 0"),
        (MINIMAL + "repe_direction: median", "repe_direction: 'median' is none of mean, pca"),
        (MINIMAL + "repe_direction: 1", "repe_direction: 1 is of the wrong kind"),
        (MINIMAL + "repe_layers: 3", "repe_layers: 3 is of the wrong kind"),
        (MINIMAL + "repe_layers: []", "repe_layers: expected places of layers"),
        (MINIMAL + "repe_layers: [1, true]", r"repe_layers: expected places of layers, from 0 on, got \[1, True\]"),
        (MINIMAL + "repe_layers: [1.5]", "repe_layers: expected places of layers"),
        (MINIMAL + "repe_layers: [-1]", "repe_layers: expected places of layers"),
        (MINIMAL + "repe_layers: [2, 2]", "repe_layers: 2 stands there twice"),
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
