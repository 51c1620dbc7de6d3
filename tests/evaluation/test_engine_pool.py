import pytest

from evaluation import engine_pool
from evaluation.engine_pool import EnginePool


@pytest.fixture
def loaded(monkeypatch):
    calls = []

    def load(spelling, adapter):
        calls.append((spelling, adapter is not None))
        return object()

    monkeypatch.setattr(engine_pool, "load_engine", load)
    return calls


def test_an_engine_is_loaded_once(loaded):
    pool = EnginePool()
    assert pool.get("embedded") is pool.get("embedded")
    assert loaded == [("embedded", False)]


def test_the_refiner_is_another_engine_than_the_plain_model(loaded):
    pool = EnginePool()
    assert pool.get("embedded") is not pool.get("embedded", adapted=True)
    assert loaded == [("embedded", False), ("embedded", True)]


def test_an_engine_that_has_no_adapter_of_ours_is_loaded_once_for_both(loaded):
    pool = EnginePool()
    assert pool.get("transformers:m") is pool.get("transformers:m", adapted=True)
    assert len(loaded) == 1


def test_what_is_let_go_is_loaded_anew(loaded):
    pool = EnginePool()
    kept, gone = pool.get("a"), pool.get("b")
    pool.keep_only({"a"})
    assert pool.get("a") is kept
    assert pool.get("b") is not gone
