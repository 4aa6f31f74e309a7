"""Maxima at any zoom are those of the table, however it grew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.views.web.pyramid import ABSENT, NOT_FINITE, Pyramid, block_maxima, encode


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.sampled_from([4, 16]), st.integers(1, 40), st.data())
def test_a_pyramid_that_grew_in_any_parts_has_the_maxima_of_the_table(parts, base, columns, data):
    rng = np.random.default_rng(sum(parts))
    table = rng.random((sum(parts), 2), np.float32)
    pyramid, begin = Pyramid(2, base), 0
    for part in parts:
        pyramid.extend(table[begin : begin + part])
        begin += part
    first = data.draw(st.integers(0, len(table) - 1))
    last = data.draw(st.integers(first + 1, len(table)))
    block = max(base, pyramid.block(last - first, columns))
    start, rows = pyramid.read(block, first, last)
    assert start * block <= first
    assert (start + len(rows)) * block >= last
    for i, row in enumerate(rows):
        part = table[(start + i) * block : (start + i + 1) * block]
        assert row.tolist() == part.max(axis=0).tolist()


@given(st.integers(1, 10**7), st.integers(1, 4000))
def test_a_block_leaves_half_to_twice_the_columns_asked_for(rows, columns):
    block = Pyramid(1).block(rows, columns)
    shown = -(-rows // block)
    assert shown <= 2 * columns
    assert block == 1 or shown >= columns // 2


def test_a_pyramid_of_nothing_is_empty():
    pyramid = Pyramid(3)
    pyramid.extend(np.empty((0, 3), np.float32))
    assert (pyramid.rows, pyramid.nbytes) == (0, 0)


def test_blocks_of_one_row_are_the_rows():
    rows = np.float32([[1, 2], [3, 0]])
    assert block_maxima(rows, 1).tolist() == rows.tolist()


@pytest.mark.parametrize("size", [2, 3, 5, 100])
def test_the_last_block_may_be_shorter(size):
    rows = np.random.default_rng(size).random((7, 3), np.float32)
    expected = [rows[begin : begin + size].max(axis=0).tolist() for begin in range(0, 7, size)]
    assert block_maxima(rows, size).tolist() == expected


def test_a_nan_is_absent_unless_it_was_counted():
    values = np.float32([0, np.nan, np.nan, np.inf])
    assert encode(values, None).tolist() == [0, ABSENT, ABSENT, NOT_FINITE]
    assert encode(values, np.float32([0, 1, np.nan, 1])).tolist() == [0, NOT_FINITE, ABSENT, NOT_FINITE]


def test_memory_is_a_third_of_the_table_at_most():
    pyramid = Pyramid(5)
    pyramid.extend(np.ones((40_000, 5), np.float32))
    assert pyramid.nbytes < 40_000 * 5 * 4 * (1 / 4 + 1 / 16 + 1 / 64 + 1 / 256 + 0.01)
