import numpy as np
import pytest
from safetensors import safe_open

from evaluation.independent import WEIGHTS, IndependentClassifier, PairFeatures

LENGTH = 24
BEGINNING = "Bread takes flour and water, salt, and a day of patience. " * 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The weights of a classifier that reads pairs to a length of its own, and where they are kept."""
    path = tmp_path_factory.mktemp("weights") / "independent.safetensors"
    features = PairFeatures(LENGTH)
    size = features(["Bread?"], ["Flour."]).shape[1]
    weight = np.random.default_rng(0).normal(size=size).astype(np.float32)
    IndependentClassifier(features, weight, -0.5).save(path)
    return weight, path


def test_loaded_it_reads_as_much_of_a_pair_as_it_was_fitted_to(saved):
    weight, path = saved
    classifier = IndependentClassifier.load(path)
    assert (classifier.weight == weight).all()
    assert classifier.bias == -0.5
    pairs = ["Bread?"] * 2, [BEGINNING + "One end.", BEGINNING + "Quite another end."]
    first, second = classifier.features(*pairs)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)
    classifier.features.max_length = 20 * LENGTH
    first, second = classifier.features(*pairs)
    assert np.abs(first - second).max() > 0.01


def test_the_weights_that_ship_tell_how_much_they_are_for():
    with safe_open(WEIGHTS, framework="numpy") as file:
        assert int(file.metadata()["max_length"]) >= 256
        assert file.get_tensor("weight").ndim == 1
