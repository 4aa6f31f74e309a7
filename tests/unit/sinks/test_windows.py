"""Few points stand for many steps, and no spike is lost."""

import math
from dataclasses import replace

import pytest

from gradwatch.sinks.windows import Windows, point_of
from gradwatch.testing import replaced, steady, stream


def test_windows_lose_no_spike_and_make_few_points():
    windows, points = Windows(), []
    for record in stream(replaced(steady(20_000), {12_345: 77.0})):
        points += windows.add(record)
    points += windows.rest()
    assert len(points) < 900
    peak = max(points, key=lambda point: point.values["total_norm_max"])
    assert (peak.peak.step, peak.values["total_norm_max"]) == (12_345, 77.0)
    assert points[-1].last.step == 19_999
    assert list(windows.rest()) == []


def test_every_record_is_in_one_window():
    windows, spans = Windows(), []
    for record in stream(steady(1_000)):
        spans += [(point.last.step, len(point.values)) for point in windows.add(record)]
    spans += [(point.last.step, len(point.values)) for point in windows.rest()]
    ends = [end for end, _ in spans]
    assert ends == sorted(set(ends))
    sizes = [now - before for before, now in zip([-1, *ends], ends, strict=False)]
    assert sum(sizes) == 1_000
    assert all(size <= max(1, end // 100 + 1) for size, end in zip(sizes, ends, strict=True))


def test_optimizers_have_windows_of_their_own():
    windows = Windows()
    first, second = stream([1.0, 9.0])
    records = [replace(first, optimizer="a"), replace(second, optimizer="a"), replace(first, optimizer="b")]
    points = [point for record in records for point in windows.add(record)]
    assert [(point.optimizer, point.values["total_norm"]) for point in points] == [("a", 1.0), ("a", 9.0), ("b", 1.0)]


@pytest.mark.parametrize(
    ("norms", "peak"),
    [
        ([1.0, math.inf, 2.0], math.inf),
        ([1.0, math.nan, 2.0], math.nan),
        ([math.inf, math.nan], math.nan),
        ([0.0], 0.0),
    ],
)
def test_the_peak_of_a_window_is_its_worst_norm(norms, peak):
    point = point_of(list(stream(norms)))
    assert point.values["total_norm_max"] == pytest.approx(peak, nan_ok=True)
    assert point.peak.total_norm == pytest.approx(peak, nan_ok=True)
    assert point.last.step == len(norms) - 1


def test_what_is_not_known_is_left_out():
    (record,) = stream([1.0])
    values = point_of([record]).values
    assert ("max_norm" in values) == (record.max_norm is not None)
    assert ("learning_rate" in values) == bool(record.learning_rates)
    assert point_of(list(stream([1.0], max_norm=2.5))).values["max_norm"] == 2.5
