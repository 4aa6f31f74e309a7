"""The largest numbers that a store may hold."""

import pytest

from gradwatch.store.limits import LARGEST, is_count


def test_float64_holds_every_whole_number_up_to_the_largest():
    assert float(LARGEST) == LARGEST
    assert float(LARGEST - 1) == LARGEST - 1
    assert float(LARGEST + 1) != LARGEST + 1


@pytest.mark.parametrize("value", [0, 1, LARGEST])
def test_what_is_a_count(value):
    assert is_count(value)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, LARGEST + 1])
def test_what_is_no_count(value):
    assert not is_count(value)
