import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector import DetectorError, average_checkpoints, detector_class, load_detector, weights_digest


def save_detector(folder, encoder, seed, latent_size=8, **config_fields):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = detector_class().from_encoder(encoder, latent_size=latent_size, max_length=64, **config_fields)
    model.save_pretrained(folder)
    return folder


def test_the_mean_of_checkpoints_is_the_mean_of_each_tensor(tiny_encoder, tmp_path):
    folders = [save_detector(tmp_path / str(seed), tiny_encoder, seed) for seed in range(3)]
    states = [load_detector(folder).state_dict() for folder in folders]
    mean = average_checkpoints(folders).state_dict()
    assert mean.keys() == states[0].keys()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, torch.stack([state[name] for state in states]).mean(0))


def test_checkpoints_of_other_shapes_have_no_mean(tiny_encoder, tmp_path):
    first, other = (save_detector(tmp_path / str(size), tiny_encoder, seed=0, latent_size=size) for size in (8, 4))
    with pytest.raises(DetectorError, match=r"4: its tensors are not those of .*8"):
        average_checkpoints([first, other])


def test_checkpoints_whose_tensors_mean_something_else_have_no_mean(tiny_encoder, tmp_path):
    first = save_detector(tmp_path / "exp", tiny_encoder, seed=0)
    other = save_detector(tmp_path / "softplus", tiny_encoder, seed=0, beta_parameterization="softplus")
    with pytest.raises(DetectorError, match=r"softplus: its beta_parameterization is not that of .*exp"):
        average_checkpoints([first, other])


@pytest.mark.parametrize(
    "fields", [{"head_dropout": "0.1"}, {"category_thresholds": 0.5}, {"encoder_config": 5}, {"id2label": [1, 2]}]
)
def test_a_damaged_configuration_is_named(tiny_encoder, tmp_path, fields):
    folder = save_detector(tmp_path / "lance", tiny_encoder, seed=0)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    with pytest.raises(DetectorError, match="lance: no Lance checkpoint"):
        load_detector(folder)


def test_a_checkpoint_that_lacks_weights_is_named(tiny_encoder, tmp_path):
    folder = save_detector(tmp_path / "lance", tiny_encoder, seed=0)
    weights = load_file(folder / "model.safetensors")
    # As a LoRA run's own checkpoints have them.
    renamed = {name.replace("encoder.", "encoder.base_model.model.", 1): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DetectorError, match=r"lance lacks \d+ weights, such as encoder\."):
        load_detector(folder)


def test_a_checkpoint_without_its_tokenizer_is_named(tiny_encoder, tmp_path):
    folder = save_detector(tmp_path / "lance", tiny_encoder, seed=0)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DetectorError, match="lance: no Lance checkpoint .*tokenizer.json"):
        load_detector(folder)


def test_a_folders_digest_is_of_what_decides_its_verdicts_and_not_of_its_name(tmp_path):
    digests = {}
    folders = {"a": (b"1", "{}", ""), "b": (b"1", "{}", "x"), "c": (b"2", "{}", ""), "d": (b"1", "[]", "")}
    for name, (weights, config, notes) in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "README.md").write_text(notes)
        digests[name] = weights_digest(tmp_path / name)
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3
    assert weights_digest(tmp_path / "a" / "model.safetensors") == weights_digest(tmp_path / "b" / "model.safetensors")
    assert weights_digest("org/lance") is None
    (tmp_path / "a" / "training_args.bin").write_bytes(b"1")
    (tmp_path / "a" / "a folder.bin").mkdir()
    (tmp_path / "a" / "tokenizer_config.json").write_text("{}")  # a mere save can rewrite it
    assert weights_digest(tmp_path / "a") == digests["a"]
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert weights_digest(tmp_path / "a") != digests["a"]


def test_a_name_that_no_file_can_have_is_one_line():
    with pytest.raises(DetectorError, match="name too long"):
        weights_digest("x" * 300)


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "of tomorrow"}}'])
def test_a_broken_tokenizer_is_named(tiny_encoder, tmp_path, content):
    folder = save_detector(tmp_path / "lance", tiny_encoder, seed=0)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(DetectorError, match="lance: no Lance checkpoint"):
        load_detector(folder)
