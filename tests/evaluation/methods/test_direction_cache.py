import pytest
import torch
from safetensors import safe_open

from evaluation.methods.direction_cache import load_direction
from evaluation.methods.refusal_direction import DirectionError, find_direction, read_states
from generation.transformers_engine import TransformersEngine

HARMFUL, HARMLESS = ["Is that unkind?", "Who is rude?"], ["Is that bread?", "Who bakes?"]


@pytest.fixture(scope="module")
def engine(roomy_chat_model):
    return TransformersEngine(str(roomy_chat_model), device="cpu")


@pytest.fixture
def passes(engine, monkeypatch):
    """How many prompts the model has read, a batch each."""
    sizes = []
    generate = engine.model.generate

    def counting(**inputs):
        sizes.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", counting)
    return sizes


def load(engine, folder, harmful=HARMFUL, harmless=HARMLESS, kind="mean", layers=(0, 1)):
    return load_direction(engine, harmful, harmless, kind, layers, folder)


def assert_same(one, other):
    assert torch.equal(one.vectors, other.vectors)
    assert torch.equal(one.norms, other.norms)


def test_a_direction_is_computed_once_and_comes_back_as_it_was(engine, passes, tmp_path):
    computed = load(engine, tmp_path / "new" / "folder")
    assert passes == [2, 2]
    assert_same(load(engine, tmp_path / "new" / "folder"), computed)
    assert passes == [2, 2]
    expected = find_direction(read_states(engine, HARMFUL, [0, 1]), read_states(engine, HARMLESS, [0, 1]), "mean")
    assert_same(computed, expected)


def test_the_file_says_what_it_is_of(engine, tmp_path):
    load(engine, tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == engine.name
    assert (metadata["layers"], metadata["direction"], metadata["count"]) == ("[0, 1]", "mean", "4")
    assert len(metadata["sha256"]) == 64


def test_another_model_data_kind_or_layer_is_another_direction(engine, tiny_chat_model, passes, tmp_path):
    load(engine, tmp_path)
    load(engine, tmp_path, harmful=HARMFUL[:1])
    load(engine, tmp_path, harmless=HARMLESS[::-1])
    load(engine, tmp_path, harmful=[*HARMFUL, HARMLESS[0]], harmless=HARMLESS[1:])
    load(engine, tmp_path, kind="pca")
    load(engine, tmp_path, layers=(0,))
    load(engine, tmp_path, layers=(1, 0))
    load(TransformersEngine(str(tiny_chat_model), device="cpu"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 8
    assert len(passes) == 14


def test_damage_anywhere_in_the_file_is_mended(engine, passes, tmp_path):
    kept = load(engine, tmp_path, layers=(0,))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 29)]
    for content in [*damaged, whole[:-1], whole[:20], b"", b"not a direction"]:
        path.write_bytes(content)
        passes.clear()
        for _ in range(2):
            assert_same(load(engine, tmp_path, layers=(0,)), kept)
        assert passes == [2, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(engine, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DirectionError, match="can't be kept there"):
        load(engine, tmp_path / "file")
