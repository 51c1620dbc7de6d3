from inspect import getmodule

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector import detector_class

assessment = getmodule(detector_class().assess)
distribution = getmodule(assessment.RiskDistribution)


@given(st.floats(2e-3, 1e3), st.floats(2e-3, 1e3), st.floats(0.01, 0.99))
def test_beta_quantile_is_scipys(alpha, beta, probability):
    value = distribution.beta_quantile(torch.tensor([alpha]), torch.tensor([beta]), probability).item()
    assert value == pytest.approx(scipy.stats.beta.ppf(probability, alpha, beta), abs=1e-4)


def test_beta_quantile_is_the_same_among_many():
    alpha = torch.linspace(0.1, 20, 14 * 100).reshape(100, 14)
    together = distribution.beta_quantile(alpha, alpha.flip(0), 0.9)
    alone = torch.stack([distribution.beta_quantile(*pair, 0.9) for pair in zip(alpha, alpha.flip(0), strict=True)])
    torch.testing.assert_close(together, alone)


def test_beta_std_is_scipys():
    alpha, beta = torch.tensor([0.2, 3.0]), torch.tensor([5.0, 0.7])
    expected = [scipy.stats.beta.std(a, b) for a, b in zip(alpha, beta, strict=True)]
    assert distribution.beta_std(alpha, beta).tolist() == pytest.approx(expected, rel=1e-5)
