"""Tables of the store as frames and as slices, against the records that were written."""

import numpy as np
import pandas as pd
import pytest

from gradwatch.analysis.tables import numbered_frame, parameter_frame, side_by_side, slice_of, standing_of
from gradwatch.store import StoreReader
from gradwatch.testing import steady, stream, write_run


@pytest.fixture
def records():
    """Ten steps, of which a second attempt made the last two and three more again."""
    return stream(steady(10)) + stream(steady(5, level=2.0), attempt=1, first_step=8)


@pytest.fixture
def store(tmp_path, records):
    with StoreReader(write_run(tmp_path, records)) as reader:
        yield reader


def test_a_frame_has_the_later_of_two_rows_of_a_step(store, records):
    frame = parameter_frame(store, store.layer_table, "norm", "0", 1)
    later = {record.step: record.layers.norm for record in records}
    assert frame.index.tolist() == list(range(13))
    assert frame.columns.tolist() == [info.name for info in records[0].layers.parameters]
    np.testing.assert_array_equal(frame.to_numpy(), np.stack(list(later.values())))


def test_a_slice_has_every_row_as_it_was_written(store, records):
    ids, values = slice_of(store, "norm", "0", after=0, up_to=None, most=-1)
    assert ids.tolist() == list(range(1, 16))
    np.testing.assert_array_equal(values, np.stack([record.layers.norm for record in records]))
    ids, _ = slice_of(store, "norm", "0", after=3, up_to=9, most=2)
    assert ids.tolist() == [4, 5]


def test_the_ratio_of_an_update_has_a_row_for_each_sample(store, records):
    ids, values = slice_of(store, "update_ratio", "0", after=0, up_to=None, most=-1)
    sampled = {at: record.weights for at, record in enumerate(records, 1) if record.weights is not None}
    assert ids.tolist() == list(sampled)
    expected = [weights.update_norm / weights.weight_norm for weights in sampled.values()]
    np.testing.assert_allclose(values, np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize("stat", ["rms_ratio", "rank_norm"])
def test_a_statistic_that_was_not_recorded_has_no_rows(store, stat):
    ids, values = slice_of(store, stat, "0", after=0, up_to=None, most=-1)
    assert (len(ids), len(values)) == (0, 0)


@pytest.mark.parametrize("stat", ["rms_ratio", "update_ratio"])
def test_a_frame_of_what_was_not_recorded_has_the_columns_and_no_rows(store, records, stat):
    frame = parameter_frame(store, store.update_table, stat, "0", 1)
    assert frame.shape == (0, len(records[0].layers.parameters))


def test_numbered_columns_stand_by_step_without_replaced_rows(store):
    rows, table = np.array([[9, 8], [11, 8], [12, 9]]), np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]], np.float32)
    expected = pd.DataFrame(table[1:], index=pd.Index([8, 9], name="step"), columns=range(2))
    pd.testing.assert_frame_equal(numbered_frame(store, rows, table, "0"), expected)


def test_in_a_run_of_one_attempt_every_row_stands(tmp_path):
    with StoreReader(write_run(tmp_path, stream(steady(3)))) as store:
        rows, table = np.array([[1, 0], [2, 1], [3, 2]]), np.ones((3, 1), np.float32)
        assert standing_of(store, rows, table, "0")[0].tolist() == rows.tolist()


def test_side_by_side_keeps_steps_that_only_one_optimizer_made():
    first = pd.DataFrame({"a": [1.0, 2.0]}, index=[0, 1])
    second = pd.DataFrame({"a": [9.0], "b": [3.0]}, index=[1])
    joined = side_by_side([first, second])
    assert joined["a"].tolist() == [1.0, 2.0]
    assert joined["b"].isna().tolist() == [True, False]
    assert side_by_side([]).empty
