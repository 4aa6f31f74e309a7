"""One parameter's gradient over the run, compared with numpy."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.layers import layer_summaries, most_relevant
from gradwatch.analysis.statistics.series import step_series
from gradwatch.record import Event, LayerStats, WeightStats
from gradwatch.testing import PARAMETERS, steady, stream, write_run

NAN = math.nan


def summaries(folder, records):
    run = Run(write_run(folder, records))
    series = step_series(run, "0", run.steps("0"), layers=True)
    weights, updates = (run.layers(stat, "0") for stat in ("weight_norm", "update_norm"))
    return layer_summaries(run, "0", series, updates / weights)


def changed(record, **columns):
    """The record with other columns of its layers."""
    arrays = {name: np.array(values, np.float32) for name, values in columns.items()}
    return dataclasses.replace(record, layers=dataclasses.replace(record.layers, **arrays))


def test_norms_of_each_parameter(tmp_path):
    norms = np.array(steady(200, spread=0.5))
    for found, share, info in zip(summaries(tmp_path, stream(norms)), (0.8, 0.6), PARAMETERS, strict=True):
        own = (share * norms).astype(np.float32)
        assert (found.name, found.numel) == (info.name, info.numel)
        assert found.median == pytest.approx(np.median(own), rel=1e-6)
        assert found.p99 == pytest.approx(np.quantile(own, 0.99), rel=1e-6)
        assert (found.max, found.max_step) == (own.max(), own.argmax())
        assert found.last == own[-1]
        assert (found.nonfinite_steps, found.absent_steps) == (0, 0)


def test_zeros_are_a_share_of_the_entries(tmp_path):
    records = [changed(r, zeros=[3.0, 0.0]) for r in stream([1.0] * 4)]
    first, second = summaries(tmp_path, records)
    assert first.zero_fraction == pytest.approx(3 / PARAMETERS[0].numel)
    assert second.zero_fraction == 0.0


def test_absent_and_nonfinite_steps_are_told_apart(tmp_path):
    records = stream([1.0] * 4)
    records[1] = changed(records[1], norm=[NAN, 0.6], nonfinite=[NAN, 0.0], zeros=[NAN, 0.0])
    records[2] = dataclasses.replace(changed(records[2], norm=[NAN, 0.6], nonfinite=[4.0, 0.0]), nonfinite=4)
    first, second = summaries(tmp_path, records)
    assert (first.absent_steps, first.nonfinite_steps) == (1, 1)
    assert (second.absent_steps, second.nonfinite_steps) == (0, 0)


def test_the_last_norm_of_a_parameter_without_gradient_is_none_and_of_a_broken_one_nan(tmp_path):
    records = stream([1.0, 1.0])
    records[1] = dataclasses.replace(changed(records[1], norm=[NAN, NAN], nonfinite=[NAN, 1.0]), nonfinite=1)
    first, second = summaries(tmp_path, records)
    assert first.last is None
    assert math.isnan(second.last)


def test_a_parameter_that_never_had_a_gradient(tmp_path):
    columns = {name: [1.0, NAN] for name in ("norm", "abs_max", "nonfinite", "zeros")}
    _, second = summaries(tmp_path, [changed(r, **columns) for r in stream([1.0] * 3)])
    assert (second.median, second.max, second.zero_fraction, second.absent_steps) == (None, None, None, 3)


def test_updates_and_growth_of_the_weights(tmp_path):
    records = stream([1.0] * 101)
    for step, norm in ((0, 2.0), (50, 3.0), (100, 5.0)):
        weights = WeightStats(
            weight_norm=np.array([norm, 0.0], np.float32), update_norm=np.array([0.02 * norm, 0.1], np.float32)
        )
        records[step] = dataclasses.replace(records[step], weights=weights)
    first, second = summaries(tmp_path, records)
    assert first.update_ratio == pytest.approx(0.02, rel=1e-5)
    assert first.weight_growth == pytest.approx(2.5)
    assert second.update_ratio is None, "an update of weights that are zero has no ratio"
    assert second.weight_growth is None


def test_layers_that_events_name_come_first_by_severity_and_the_others_by_their_rise(tmp_path):
    names = ["calm", "rising", "warned", "critical"]
    infos = tuple(dataclasses.replace(PARAMETERS[0], name=name) for name in names)
    table = np.array([[1.0, 1.0, 1.0, 1.0]] * 9 + [[1.0, 50.0, 1.0, 1.0]], np.float32)
    records = [
        dataclasses.replace(
            record,
            layers=LayerStats(parameters=infos, norm=row, nonfinite=np.zeros(4, np.float32)),
            weights=None,
        )
        for record, row in zip(stream([2.0] * 10), table, strict=True)
    ]
    layers = summaries(tmp_path, records)
    events = [
        Event(step=1, kind="spike", severity="warning", parameter="warned", message=""),
        Event(step=2, kind="explosion", severity="critical", parameter="critical", message=""),
        Event(step=3, kind="spike", severity="info", parameter="critical", message=""),
    ]
    assert [names[index] for index in most_relevant(layers, events)] == ["critical", "warned", "rising", "calm"]
    assert most_relevant([], events) == ()
