"""Frames from the store's columns, against a plain loop."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.analysis import frames
from gradwatch.analysis.frames import standing_rows
from gradwatch.record import StepRecord
from gradwatch.store import StoreWriter
from gradwatch.testing import PARAMETERS, steady, stream, write_run


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), unique=True, max_size=30).map(sorted))
def test_of_rows_of_one_step_the_latest_attempt_stands(pairs):
    """An attempt makes each of its steps once, and attempts follow each other."""
    rows = np.array([[i, step, attempt] for i, (attempt, step) in enumerate(pairs)], np.int64).reshape(-1, 3)
    latest = {step: i for i, step, _ in rows.tolist()}
    assert {int(i) for i in standing_rows(rows)[:, 0]} == set(latest.values())


def test_the_share_of_cut_entries_has_two_names(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    writer.add_parameters("0", PARAMETERS)
    cut = [0, 3, None]
    writer.append([StepRecord(step=i, total_norm=1.0, clip_value=0.5, cut_entries=n) for i, n in enumerate(cut)])
    writer.end_attempt("closed")
    steps = Run(tmp_path).steps()
    entries = sum(info.numel for info in PARAMETERS)
    assert steps["cut_fraction"].tolist()[:2] == [0.0, 3 / entries]
    assert np.isnan(steps["cut_fraction"].iloc[2])
    pd.testing.assert_series_equal(steps["cut_fraction"], steps["clipped_fraction"], check_names=False)
    assert steps["clipped"].tolist() == [False, True, False]


def test_rates_of_further_groups_have_columns_of_their_own(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    rates = [(0.1,), (0.1, 0.2), (0.1, 0.2, 0.3)]
    writer.append([StepRecord(step=i, total_norm=1.0, learning_rates=r) for i, r in enumerate(rates)])
    writer.end_attempt("closed")
    steps = Run(tmp_path).steps()
    assert steps["learning_rate"].tolist() == [0.1] * 3
    assert steps["learning_rate_1"].tolist()[1:] == [0.2, 0.2]
    assert steps["learning_rate_2"].isna().tolist() == [True, True, False]


def test_a_run_without_steps_is_an_empty_frame_with_all_columns(tmp_path):
    empty = Run(write_run(tmp_path / "empty", [])).steps()
    full = Run(write_run(tmp_path / "full", stream(steady(3)))).steps()
    assert empty.empty
    assert list(empty.columns) == list(full.columns)


@pytest.mark.parametrize("one_of", [1, 7])
def test_a_sample_of_the_layers_is_a_part_of_all(tmp_path, one_of):
    run = Run(write_run(tmp_path, stream(steady(100))))
    whole, part = run.layers("norm"), run.layers("norm", one_of=one_of)
    assert len(part) == len(whole) // one_of
    pd.testing.assert_frame_equal(part, whole.loc[part.index])


@pytest.mark.parametrize("storage", ["python", "pyarrow"])
def test_a_text_of_all_rows_is_a_column_of_texts_however_pandas_holds_them(storage):
    pytest.importorskip("pyarrow")
    names = np.broadcast_to(np.array("critic", object), (10_000,))
    with pd.option_context("mode.string_storage", storage):
        column = frames._texts(names)
        assert column.dtype == pd.Series(["critic"], dtype="str").dtype
    assert column.tolist() == ["critic"] * 10_000
    assert (column == "critic").all()
