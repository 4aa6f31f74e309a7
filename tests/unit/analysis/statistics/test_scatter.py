"""The sample keeps the extremes of each quantity, and every step that can't be drawn is counted."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.scatter import MIN_POINTS, QUANTITIES, scatter
from gradwatch.testing import steady, stream, write_run

NAN, INF = math.nan, math.inf


def series_of(size, seed=0, **given):
    """Random series: each quantity has NaN, infinity and zeros."""
    random = np.random.default_rng(seed)
    values = {}
    for name in QUANTITIES:
        values[name] = np.exp(random.normal(0, 3, size))
        for bad in (NAN, INF, 0.0):
            values[name][random.random(size) < 0.03] = bad
    values |= given
    values |= {
        "nonfinite": ~np.isfinite(values["total_norm"]),
        "loss_nonfinite": ~np.isfinite(values["loss"]) & (random.random(size) < 0.5),
    }
    return SimpleNamespace(step=np.arange(size) * 2, **(values | given))


def slow(series, first, last):
    """The steps of a range as a list of dicts, read one by one."""
    return [
        {"step": int(step)} | {name: float(getattr(series, name)[i]) for name in QUANTITIES}
        for i, step in enumerate(series.step)
        if first <= step <= last
    ]


@pytest.mark.parametrize("size", [1, 50, 1000, 7000])
@pytest.mark.parametrize("points", [50, 400])
def test_the_sample_is_bounded_and_keeps_the_extremes(size, points):
    series = series_of(size, size)
    found = scatter(series, 0, 2 * size, points)
    assert len(found.step) == size if size <= points else len(found.step) <= points
    assert (np.diff(found.step) > 0).all()
    rows = slow(series, 0, 2 * size)
    assert found.step[0] == rows[0]["step"]
    assert found.step[-1] == rows[-1]["step"]
    by_step = {row["step"]: row for row in rows}
    for at, name in enumerate(QUANTITIES):
        finite = [row[name] for row in rows if math.isfinite(row[name])]
        kept = found.values[:, at][np.isfinite(found.values[:, at])]
        assert [kept.min(), kept.max()] == [min(finite), max(finite)] if finite else kept.size == 0
        for step, value in zip(found.step, found.values[:, at], strict=True):
            np.testing.assert_equal(value, by_step[int(step)][name])


def test_the_sample_keeps_a_lone_spike_of_each_quantity_in_each_part_of_the_run():
    flat = {name: np.ones(20_000) for name in QUANTITIES}
    for at, name in enumerate(QUANTITIES):
        flat[name][1000 + 100 * at], flat[name][15_000 + 100 * at] = 50.0, 0.02
    found = scatter(series_of(20_000, **flat), 0, INF, 1000)
    for at in range(len(QUANTITIES)):
        assert 2 * (1000 + 100 * at) in found.step
        assert 2 * (15_000 + 100 * at) in found.step


@pytest.mark.parametrize("spans", [1, 7, 64])
def test_every_step_is_drawn_or_counted(spans):
    series = series_of(900, 3)
    found = scatter(series, 100, 1499, 10_000, spans)
    assert found.steps.sum() == len(found.step) == 700
    assert (found.first[0], found.last[-1], len(found.first)) == (100, 1498, spans)
    for span, (first, last) in enumerate(zip(found.first, found.last, strict=True)):
        rows = slow(series, first, last)
        assert found.steps[span] == len(rows)
        for a, one in enumerate(QUANTITIES):
            values = [row[one] for row in rows]
            told = {"total_norm": series.nonfinite, "loss": series.loss_nonfinite}.get(one, np.zeros(900, bool))
            nan = sum(math.isnan(row[one]) and bool(told[row["step"] // 2]) for row in rows)
            assert found.infinite[span, a] == sum(map(math.isinf, values))
            assert found.nan[span, a] == nan
            assert found.unknown[span, a] == sum(map(math.isnan, values)) - nan
            for b, other in enumerate(QUANTITIES):
                left = [row for row in rows if not (math.isfinite(row[one]) and math.isfinite(row[other]))]
                assert found.left_out[span, a, b] == len(left)


@pytest.mark.parametrize(("size", "first", "last"), [(0, 0, 10), (10, 100, 200), (10, 5.5, 5.6)])
def test_a_range_without_a_step_is_empty(size, first, last):
    found = scatter(series_of(size), first, last, 100, 4)
    assert found.step.size == found.steps.size == found.first.size == found.last.size == 0
    assert found.values.shape == (0, len(QUANTITIES))
    assert found.left_out.shape == (0, len(QUANTITIES), len(QUANTITIES))


def test_quantities_that_were_not_recorded_are_unknown_and_take_no_room():
    size = 5000
    none = np.full(size, NAN)
    given = dict.fromkeys(QUANTITIES[1:], none) | {"total_norm": np.arange(size, dtype=float)}
    found = scatter(series_of(size, **given, loss_nonfinite=np.zeros(size, bool)), 0, INF, 200)
    assert found.unknown.tolist() == [[0, *[size] * 5]]
    assert found.left_out[0, 0].tolist() == [0, *[size] * 5]
    assert 150 < len(found.step) <= 200, "half of the room is for the norm alone"


def test_few_points_are_as_many_as_the_extremes_need():
    assert len(scatter(series_of(5000), 0, INF, 1).step) <= MIN_POINTS


def test_the_values_are_those_of_the_run(tmp_path):
    losses = [2.0 - i / 100 for i in range(99)] + [NAN]
    run = Run(write_run(tmp_path, stream(steady(100), losses=losses, max_norm=1.0)))
    found = scatter(run.summary().series, -1, 1000, 1000)
    table = run.steps("0")
    assert found.step.tolist() == table.index.tolist()
    for name in ("total_norm", "loss", "learning_rate", "clip_coef"):
        np.testing.assert_array_equal(found.values[:, QUANTITIES.index(name)], table[name].to_numpy(float))
    assert found.nan[0, QUANTITIES.index("loss")] == 1


def test_the_cost_grows_no_faster_than_the_steps():
    def cost(size):
        series = series_of(size)
        began = time.process_time()
        scatter(series, 0, INF, 4000)
        return time.process_time() - began

    assert min(cost(400_000) for _ in range(3)) < 60 * max(min(cost(40_000) for _ in range(3)), 1e-3)
