import numpy as np
import pytest

from benchmarks.independent import Rows


def test_safe_pairs_count_as_much_as_harmful_ones_and_those_from_elsewhere_their_share():
    harmful = np.array([True] * 6 + [False] * 5)
    elsewhere = np.arange(11) >= 8  # two safe pairs from BeaverTails, three from elsewhere
    importance = Rows(["x"] * 11, ["y"] * 11, harmful, elsewhere).importance(0.25)
    assert importance.mean() == pytest.approx(1)
    assert importance[harmful].sum() == pytest.approx(importance[~harmful].sum())
    assert importance[elsewhere].sum() == pytest.approx(0.25 * importance[~harmful].sum())
    assert len({*importance[6:8]}) == len({*importance[elsewhere]}) == 1
