"""A column of one value takes no memory and reads as any other."""

import numpy as np
import pytest

from gradwatch.store.columns import JoinedColumn, is_of_one_value


@pytest.mark.parametrize("parts", [[[1.0] * 3, [1.0]], [[1.0] * 3, [2.0] * 2], [[np.nan] * 2, [np.nan]], [[1.0, 2.0]]])
def test_a_joined_column_holds_what_its_parts_hold(parts):
    column = JoinedColumn(2)
    for part in parts:
        values = np.array(part)
        column.extend(np.broadcast_to(values[0], len(part)) if len(set(part)) == 1 and len(part) > 1 else values)
    np.testing.assert_array_equal(column.whole(), np.concatenate(parts))
    is_one = len({repr(value) for part in parts for value in part}) == 1
    assert is_of_one_value(column.whole()) == is_one


def test_a_column_that_outgrows_its_room_is_seldom_copied():
    column, copies = JoinedColumn(10), set()
    for part in range(1000):
        column.extend(np.arange(10.0) + part)
        copies.add(len(column.whole().base))
    assert len(copies) <= 12
    np.testing.assert_array_equal(column.whole(), (np.arange(1000)[:, None] + np.arange(10.0)).ravel())


def test_a_column_is_put_where_it_is_wanted_while_it_fits():
    room = np.zeros(4, np.int64)
    column = JoinedColumn(4, room)
    column.extend(np.array([3, 5, 7]))
    assert np.shares_memory(column.whole(), room)
    column.extend(np.array([9, 11]))
    assert column.whole().tolist() == [3, 5, 7, 9, 11]
