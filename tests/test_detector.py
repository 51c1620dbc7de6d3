import pytest
import torch

from detector import DetectorError, average_checkpoints, detector_class, load_detector


def save_detector(folder, encoder, seed, latent_size=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = detector_class().from_encoder(encoder, latent_size=latent_size, max_length=64)
    model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
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


def test_a_checkpoint_without_its_tokenizer_is_named(tiny_encoder, tmp_path):
    folder = save_detector(tmp_path / "lance", tiny_encoder, seed=0)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DetectorError, match="lance: no Lance checkpoint .*tokenizer.json"):
        load_detector(folder)
