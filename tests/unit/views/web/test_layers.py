"""Tiles of layers: at every zoom the largest of each column, no spike and no NaN lost."""

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.record import StepRecord, WeightStats
from gradwatch.store import StoreWriter
from gradwatch.views.web.layers import LayerHistory
from gradwatch.views.web.pyramid import ABSENT, NOT_FINITE

from .makers import infos, record, written


def history(run, stat="norm", optimizer="0"):
    made = LayerHistory(stat, optimizer, len(run.parameters(optimizer)))
    made.update(run, run.standing(optimizer))
    return made


def expected(frame, first, last):
    """The largest of each column, from the whole table; NaN is an absent gradient here."""
    shown = frame.loc[first:last].max()
    return shown.fillna(ABSENT).to_numpy(np.float32)


@pytest.mark.parametrize("columns", [1, 7, 40, 1000])
@pytest.mark.parametrize(("first", "last"), [(0, 2999), (17, 1803), (1200, 1200), (2990, 5000)])
def test_a_tile_has_the_largest_of_each_of_its_columns(tmp_path, columns, first, last):
    rng = np.random.default_rng(0)
    run = written(tmp_path, [record(s, np.exp(rng.normal(size=3))) for s in range(3000)])
    frame = run.layers("norm")
    firsts, lasts, values, joined_steps = history(run).tile(run, first, last, columns)
    assert len(values) <= 2 * columns or joined_steps == 1
    assert firsts[0] <= first
    assert lasts[-1] >= min(last, 2999)
    assert firsts[1:].tolist() == (lasts[:-1] + 1).tolist()
    for begin, end, row in zip(firsts, lasts, values, strict=True):
        assert row.tolist() == expected(frame, begin, end).tolist()


def test_a_single_step_and_what_is_not_finite_are_in_every_zoom(tmp_path):
    rows = [record(s, [1.0, 1.0, np.nan]) for s in range(5000)]
    rows[3210] = record(3210, [1.0, 777.0, np.nan])
    rows[4001] = record(4001, [np.nan, 1.0, np.nan], nonfinite=[3, 0, np.nan])
    rows[4002] = record(4002, [np.inf, 1.0, np.nan], nonfinite=[1, 0, np.nan])
    run = written(tmp_path, rows)
    seen = history(run)
    for columns in (1, 3, 50, 600, 4000):
        values = seen.tile(run, 0, 4999, columns)[2]
        assert values[:, 1].max() == 777.0
        assert values[:, 0].max() == NOT_FINITE
        assert set(values[:, 2].tolist()) == {ABSENT}
    assert seen.bad.tolist() == [2, 0, 0]
    assert (seen.high[1], seen.high_at[1]) == (777.0, 3210)
    assert (seen.high[2], seen.high_at[2]) == (ABSENT, -1)
    assert seen.level().tolist()[:2] == [1.0, 1.0]
    assert np.isnan(seen.level()[2])


def test_what_is_read_while_a_run_is_written_equals_what_is_read_at_its_end(tmp_path):
    rng = np.random.default_rng(1)
    rows = [record(s, rng.random(3)) for s in range(2500)]
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", infos(3))
    live = None
    for begin in range(0, 2500, 311):
        writer.append(rows[begin : begin + 311], [])
        run = Run(tmp_path)
        live = live or LayerHistory("norm", "0", 3)
        live.update(run, run.standing())
    writer.end_attempt("closed")
    whole = history(Run(tmp_path))
    for columns in (3, 100, 900):
        for left, right in zip(live.tile(run, 0, 2499, columns), whole.tile(run, 0, 2499, columns), strict=True):
            assert np.array_equal(left, right)
    assert live.high.tolist() == whole.high.tolist()
    assert live.level().tolist() == whole.level().tolist()


@pytest.mark.parametrize("second", [(400, 900), (400, 450), (600, 700), (0, 20)])
def test_of_a_resumed_run_the_later_attempt_is_shown(tmp_path, second):
    attempts = [
        [record(s, [1.0, 5.0, 1.0]) for s in range(500)],
        [record(s, [2.0, 1.0, 1.0], attempt=1) for s in range(*second)],
    ]
    run = written(tmp_path, attempts[0])
    seen = history(run)
    run = written(tmp_path, attempts[1])
    frame = run.layers("norm")
    seen.update(run, run.standing())
    firsts, lasts, values, _ = seen.tile(run, 0, 1000, 30)
    assert seen.steps.tolist() == frame.index.tolist()
    for begin, end, row in zip(firsts, lasts, values, strict=True):
        assert row.tolist() == expected(frame, begin, end).tolist()
    exact = seen.tile(run, 0, 1000, 1000)
    assert np.array_equal(exact[2], frame.to_numpy(np.float32))


def test_each_optimizer_has_its_own_rows(tmp_path):
    rows = [record(s, [1.0 + o] * 3, optimizer=str(o)) for s in range(1500) for o in range(2)]
    run = written(tmp_path, rows, optimizers=("0", "1"))
    assert [set(history(run, optimizer=name).tile(run, 0, 1499, 20)[2].ravel()) for name in "01"] == [{1.0}, {2.0}]


def test_sampled_weights_have_a_row_for_each_sample(tmp_path):
    weights = WeightStats(weight_norm=np.float32([4, 0, 2]), update_norm=np.float32([1, 1, np.inf]))
    rows = [record(s, [1.0] * 3, weights=None if s % 50 else weights) for s in range(1000)]
    run = written(tmp_path, rows)
    firsts, _, values, _ = history(run, "update_ratio").tile(run, 0, 999, 100)
    assert firsts.tolist() == list(range(0, 1000, 50))
    assert values[0].tolist() == [0.25, ABSENT, NOT_FINITE]


def test_a_long_run_has_a_coarser_pyramid_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.views.web.layers.MAX_BASE_ENTRIES", 300)
    run = written(tmp_path, [record(s, [1.0, 1.0, 99.0 if s == 1234 else 1.0]) for s in range(2000)])
    seen = history(run)
    assert seen.pyramid.base == 64
    assert seen.tile(run, 0, 1999, 10)[2][:, 2].max() == 99.0
    assert seen.tile(run, 1200, 1300, 60)[2].shape == (101, 3)


def test_steps_without_layers_are_left_out(tmp_path):
    rows = [record(s, [1.0] * 3) for s in range(100)]
    rows[50] = StepRecord(step=50, total_norm=1.0)
    run = written(tmp_path, rows)
    assert len(history(run).tile(run, 0, 99, 100)[0]) == 99
    assert history(run).tile(run, 200, 300, 10)[2].shape == (0, 3)
