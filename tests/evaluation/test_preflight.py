from importlib.util import find_spec

import pytest

from errors import UserError
from evaluation.preflight import check_engines
from evaluation.study import Backbone, Study

OPENAI = "openai:gpt-4o@https://api.openai.com/v1"
OWN = "openai:mine@http://127.0.0.1:9/v1"
KEYED = OWN + "?key_variable=SOME_KEY"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for variable in ("OPENAI_API_KEY", "SOME_KEY"):
        monkeypatch.delenv(variable, raising=False)


def study(engine=OWN, methods=("vanilla",), **fields):
    names = ("instruct", "repe", "commercial")
    backbone = {name: fields.pop(name) for name in names if name in fields}
    return Study((Backbone("Alpha", engine, **backbone),), methods=methods, **fields)


@pytest.mark.parametrize("engine", ["vllm:model", OWN, "vllm:transformers:model", "embedder"])
def test_repe_on_an_engine_that_it_cannot_steer_is_refused(engine):
    with pytest.raises(UserError, match="Alpha: RepE steers a transformers engine") as raised:
        check_engines(study(engine, methods=("vanilla", "repe")))
    assert engine in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fine",
    [
        study(OWN, methods=("vanilla", "repe"), repe="transformers:model?dtype=float16"),
        study("transformers:nowhere/to-be-found", methods=("repe",)),
        study("embedded", methods=("repe",)),
        study("embedded?batch_size=4", methods=("repe",)),
        study(OWN, methods=("vanilla", "repe"), commercial=True),
    ],
)
def test_what_can_be_steered_or_is_not_to_be_passes_without_a_model_being_loaded(fine):
    check_engines(fine)


@pytest.mark.parametrize("spelling", ["opena:judge@http://h/v1", "openai:judge", "vllm:", "gpt-4o"])
def test_a_spelling_that_names_no_engine_is_refused_before_any_is_loaded(spelling):
    with pytest.raises(UserError, match=f"'{spelling}' names no engine"):
        check_engines(study("transformers:model", judges=(spelling,)))


KEYLESS = {
    "a backbone": study(KEYED),
    "a commercial backbone": study(KEYED, commercial=True),
    "an instruct model": study("transformers:m", methods=("instruct",), instruct=KEYED),
    "a refiner": study("transformers:m", methods=("lance",), refiner=KEYED),
    "a coarse refiner": study("transformers:m", methods=("lance-nf",), coarse_refiner=KEYED),
    "a second judge": study("transformers:m", judges=(OWN, KEYED)),
}


@pytest.mark.parametrize("keyless", KEYLESS.values(), ids=KEYLESS)
def test_a_key_s_variable_that_is_not_set_is_named_with_its_engine(keyless, monkeypatch):
    with pytest.raises(UserError, match="SOME_KEY is not set") as raised:
        check_engines(keyless)
    assert str(raised.value).startswith(KEYED)
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("SOME_KEY", "key")
    check_engines(keyless)


@pytest.mark.parametrize("key", [None, " "])
def test_openai_s_own_server_needs_a_key_too(monkeypatch, key):
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        check_engines(study("transformers:m", judges=(OPENAI,)))
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    check_engines(study("transformers:m", judges=(OPENAI,)))


@pytest.mark.parametrize(
    "fine", [study(OWN, judges=(OWN,)), study("transformers:m", methods=("vanilla", "lance-nr"), refiner=KEYED)]
)
def test_no_key_is_asked_for_that_nothing_needs(fine):
    check_engines(fine)


@pytest.mark.parametrize(
    ("spelling", "fault"),
    [
        ("embedded?batchsize=2", "batchsize"),
        ("transformers:m?batch_size", "must read NAME=VALUE"),
        ("openai:m@http://h/v1?colour=red", "colour"),
    ],
)
def test_an_option_that_an_engine_does_not_have_is_refused_before_any_is_loaded(spelling, fault):
    with pytest.raises(UserError, match=fault):
        check_engines(study("transformers:m", methods=("vanilla", "lance"), refiner=spelling))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_is_asked_for_before_any_engine_is_loaded():
    with pytest.raises(UserError, match="vLLM is not installed"):
        check_engines(study("transformers:m", methods=("vanilla", "lance"), refiner="vllm:m"))


def test_an_openai_engine_s_options_are_checked(monkeypatch):
    with pytest.raises(UserError, match="concurrency must be a whole number"):
        check_engines(study(OWN + "?concurrency=0"))
