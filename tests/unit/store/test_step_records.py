"""Whole records, read back in pieces and past damage."""

import pytest

from gradwatch.store.step_records import records
from gradwatch.testing import PARAMETERS

from .two_optimizers import OTHERS, RECORDS


@pytest.mark.parametrize("chunk", [1, 3, 40, 1000])
@pytest.mark.parametrize("after", [0, 1, 39, 40, 1000])
def test_records_come_in_order_whatever_the_pieces(opened, chunk, after):
    found = list(records(*opened(), "0", PARAMETERS, after, chunk))
    assert repr(found) == repr(RECORDS[after:])


def test_each_optimizer_has_its_own(opened):
    db, integrity = opened()
    assert repr(list(records(db, integrity, "1", PARAMETERS, 0, 7))) == repr(OTHERS)
    assert list(records(db, integrity, "nobody", PARAMETERS, 0, 7)) == []


def test_a_record_that_is_damaged_is_passed_over_and_gaps_end_nothing(opened):
    db, integrity = opened("update step set loss = 7 where id = 3", "delete from step where id between 10 and 30")
    found = [record.step for record in records(db, integrity, "0", PARAMETERS, 0, 2)]
    assert found == [0, 1, *range(3, 9), *range(30, 40)]
    assert ("step", 3) in integrity.left_out


def test_a_step_whose_blobs_are_damaged_is_no_record(opened):
    db, integrity = opened("update layer set norm = zeroblob(8) where id = 5")
    assert 4 not in [record.step for record in records(db, integrity, "0", PARAMETERS, 0, 100)]
    assert integrity.left_out
