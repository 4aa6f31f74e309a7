"""Parameters and units that get no gradient."""

import dataclasses

import numpy as np
import pytest

from gradwatch.detect import Dead
from gradwatch.record import LayerStats, ParameterInfo, StepRecord

from .streams import NAN, events_of, found


def test_exact_zeros_are_dead_and_absence_is_not():
    parameters = tuple(ParameterInfo(name=n, shape=(2, 2)) for n in ("live", "zero", "absent"))
    records = []
    for step in range(80):
        norm = np.array([1.0, 0.0, NAN], np.float32)
        stats = LayerStats(parameters=parameters, norm=norm, nonfinite=np.array([0, 0, NAN], np.float32))
        records.append(StepRecord(step=step, total_norm=1.0, layers=stats))
    detector = Dead()
    events = [event for record in records for event in detector.update(record)]
    assert [(e.step, e.severity, e.parameter) for e in events] == [(49, "warning", "zero"), (49, "info", "absent")]
    assert "is exactly zero for 50 steps" in events[0].message
    assert "was never there" in events[1].message


def test_a_parameter_without_entries_is_neither_dead_nor_missing():
    shapes = {"live": (2, 2), "empty": (0,), "absent": (0, 3), "none.weight": (0, 8), "none.bias": (0,)}
    parameters = tuple(ParameterInfo(name=name, shape=shape) for name, shape in shapes.items())
    norm = np.array([1.0, 0.0, NAN, 0.0, 0.0], np.float32)
    stats = LayerStats(parameters=parameters, norm=norm, nonfinite=0 * norm, zeros=0 * norm)
    assert events_of(Dead(), [StepRecord(step=step, total_norm=1.0, layers=stats) for step in range(120)]) == []


def with_dead_units(steps, dead, fan_in=8, units=16, fits=True):
    """A layer of which ``dead(step)`` units get no gradient."""
    parameters = (
        ParameterInfo(name="0.weight", shape=(units, fan_in)),
        ParameterInfo(name="0.bias", shape=(units,)),
    )
    records = []
    for step in range(steps):
        zeros = np.array([dead(step) * fan_in if fits else 0, dead(step)], np.float32)
        norm = np.where(zeros == [units * fan_in, units], 0, 1).astype(np.float32)
        stats = LayerStats(parameters=parameters, norm=norm, nonfinite=np.zeros(2, np.float32), zeros=zeros)
        records.append(StepRecord(step=step, total_norm=1.0, layers=stats))
    return records


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param(with_dead_units(300, lambda step: 10 if step >= 50 else 0), [(149, "0.bias")], id="most of them"),
        pytest.param(with_dead_units(300, lambda step: 7), [], id="less than half"),
        pytest.param(with_dead_units(300, lambda step: 10 if step % 60 else 3), [], id="not always"),
        pytest.param(with_dead_units(300, lambda step: 10, fits=False), [], id="the weight has gradients"),
        pytest.param(with_dead_units(300, lambda step: 16), [(49, "0.weight")], id="all: exact zeros, said once"),
    ],
)
def test_units_that_get_no_gradient(records, expected):
    events = events_of(Dead(), records)
    assert [(event.step, event.parameter) for event in events] == expected
    assert {event.severity for event in events} <= {"warning"}


def test_half_of_the_units_is_information():
    assert found(Dead(), with_dead_units(200, lambda step: 8)) == [(99, "dead", "info")]


def test_a_bias_whose_weight_moves_is_not_dead():
    """Under a hinge loss what reaches the last bias cancels exactly."""
    records = with_dead_units(200, lambda step: 0)
    for i, record in enumerate(records):
        norm = np.array([1, 0], np.float32)
        records[i] = dataclasses.replace(record, layers=dataclasses.replace(record.layers, norm=norm))
    assert found(Dead(), records) == []


def test_a_parameter_that_moves_again_ends_its_event():
    events = events_of(Dead(), with_dead_units(200, lambda step: 16 if step < 120 else 0))
    assert [(event.step, event.until) for event in events] == [(49, 119)]
