import pytest

from benchmarks.growth import growth_exponent


def test_the_exponent_is_one_where_time_grows_with_the_work_and_two_with_its_square():
    assert growth_exponent({10: 2.0, 100: 20.0, 1000: 200.0}) == pytest.approx(1)
    assert growth_exponent({10: 1.0, 20: 4.0}) == pytest.approx(2)


def test_one_size_tells_no_growth():
    assert growth_exponent({10: 2.0}) is None
