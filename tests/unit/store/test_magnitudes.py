"""Histograms of entries in a store: as they were written, or left out and counted."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.analysis import history
from gradwatch.errors import BadArgument
from gradwatch.record import MAGNITUDE_BINS, LayerStats, MagnitudeStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter

from .handmade import change, copied, forge

SIZE = len(MAGNITUDE_BINS)
INFOS = tuple(ParameterInfo(name=name, shape=(2, 3)) for name in "ab")
FLOATS = st.lists(st.floats(width=32) | st.integers(-2, 40 * 65536).map(float), max_size=6)


def counts_of(step):
    table = np.zeros((2, SIZE))
    table[0, step % 30 : step % 30 + 3] = [1, 65535, step + 1]
    table[1, -3:] = [5, 6, 7]
    return table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve steps, of which every third was counted; the steps from 9 on were made again by a second attempt."""
    folder = tmp_path_factory.mktemp("magnitudes") / "run"
    for attempt, steps in enumerate((range(12), range(9, 12))):
        writer = StoreWriter(folder)
        writer.begin_attempt({}, {"0": ("SGD", {})})
        writer.add_parameters("0", INFOS)
        ones = np.ones(2, np.float32)
        writer.append(
            [
                StepRecord(
                    step=step,
                    attempt=attempt,
                    total_norm=1.0,
                    layers=LayerStats(parameters=INFOS, norm=ones),
                    magnitudes=MagnitudeStats.of(counts_of(step + 10 * attempt)) if step % 3 == 0 else None,
                )
                for step in steps
            ]
        )
        writer.end_attempt("closed")
    return folder


def test_the_counts_are_those_written_by_the_attempt_that_stands(run):
    reader = Run(run)
    for position, name in enumerate("ab"):
        found = reader.magnitudes(name)
        expected = [counts_of(step + (10 if step >= 9 else 0))[position].tolist() for step in (0, 3, 6, 9)]
        assert found.index.tolist() == [0, 3, 6, 9]
        assert found.to_numpy().tolist() == expected
    assert reader.damaged_rows == 0


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 5])
def test_rows_that_are_read_in_parts_are_those_that_are_read_at_once(run, monkeypatch, at_once):
    whole = Run(run).magnitudes("b")
    monkeypatch.setattr(history, "MAGNITUDES_AT_ONCE", at_once)
    pd.testing.assert_frame_equal(Run(run).magnitudes("b"), whole)


def test_a_name_that_the_run_does_not_have_is_refused_with_some_that_it_has(run):
    with pytest.raises(BadArgument, match="expected a name such as 'a', 'b'"):
        Run(run).magnitudes("c")


@pytest.mark.parametrize(
    "statement", ["update magnitude set cells = x'0000803f' where id = 4", "delete from magnitude where id = 4"]
)
def test_a_row_that_was_changed_or_lost_is_left_out_and_counted(run, tmp_path, statement):
    change(copied(run, tmp_path / "copy"), statement)
    reader = Run(tmp_path / "copy")
    assert reader.magnitudes("a").index.tolist() == [0, 6, 9]
    if statement.startswith("update"):
        assert reader.damaged_rows == 1
    assert (3 in [record.step for record in reader.records()]) is statement.startswith("delete")
    assert reader.damaged_rows >= 1


def blob(*values):
    return np.array(values, "<f4").tobytes()


CELL = 65536.0


@pytest.mark.parametrize(
    ("filled", "cells"),
    [
        (blob(1, 0), blob()),  # fewer cells than there should be
        (blob(1, 0), blob(CELL + 1, 2 * CELL + 1)),  # more
        (blob(1e9, 0), blob(CELL + 1)),
        (blob(-1, 2), blob(CELL + 1)),
        (blob(0.5, 0.5), blob(CELL + 1)),
        (blob(math.inf, 0), blob(CELL + 1)),
        (blob(1, 0), blob(math.nan)),
        (blob(1, 0), blob(math.inf)),
        (blob(1, 0), blob(-1)),
        (blob(1, 0), blob(CELL + 0.5)),
        (blob(1, 0), blob(SIZE * CELL + 1)),  # a bin that there is not
        (blob(1, 0), blob(CELL)),  # no entry in it
        (blob(2, 0), blob(CELL + 1, CELL + 2)),  # one bin twice
        (blob(2, 0), blob(2 * CELL + 1, CELL + 2)),  # not in order
    ],
)
def test_counts_that_gradwatch_does_not_write_are_left_out_though_their_checksums_are_right(
    run, tmp_path, filled, cells
):
    forge(copied(run, tmp_path / "copy"), "update magnitude set filled = ?, cells = ? where id = 4", filled, cells)
    reader = Run(tmp_path / "copy")
    assert reader.magnitudes("a").index.tolist() == [0, 6, 9]
    assert [record.step for record in reader.records()] == [0, 1, 2, *range(4, 12), 9, 10, 11]
    assert reader.damaged_rows > 0


def test_more_parameters_than_the_run_has_are_not_shown(run, tmp_path):
    values = blob(0, 0, 1), blob(CELL + 1)
    forge(copied(run, tmp_path / "copy"), "update magnitude set filled = ?, cells = ? where id = 4", *values)
    reader = Run(tmp_path / "copy")
    assert reader.magnitudes("a").index.tolist() == [0, 6, 9]
    assert 3 not in [record.step for record in reader.records()]


@settings(max_examples=300, deadline=None)
@given(FLOATS, FLOATS)
def test_whatever_a_row_holds_it_becomes_counts_or_none(filled, cells):
    stats = MagnitudeStats(filled=np.array(filled, np.float32), cells=np.array(cells, np.float32))
    table = stats.counts()
    if table is not None:
        again = MagnitudeStats.of(table)
        assert np.array_equal(again.filled, stats.filled, equal_nan=True)
        assert np.array_equal(again.cells, stats.cells)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 65535), min_size=SIZE, max_size=SIZE), max_size=4))
def test_counts_are_the_same_after_the_way_there_and_back(rows):
    table = np.array(rows, np.float64).reshape(len(rows), SIZE)
    assert np.array_equal(MagnitudeStats.of(table).counts(), table)
