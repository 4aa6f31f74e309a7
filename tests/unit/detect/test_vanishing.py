"""Gradients that fade, of a layer and of the whole model."""

import dataclasses

import numpy as np
import pytest

from gradwatch.detect import Vanishing
from gradwatch.record import ParameterInfo, WeightStats
from gradwatch.testing import steady, stream

from .streams import events_of, found, growing


def test_a_layer_a_million_times_weaker_vanishes():
    records = stream(steady(300), shares=(1.0, 1e-8))
    events = [event for detector in [Vanishing()] for record in records for event in detector.update(record)]
    assert [(e.kind, e.severity, e.parameter, e.step) for e in events] == [("vanishing", "warning", "out.weight", 99)]


def test_a_bias_may_be_as_weak_as_it_likes():
    """The bias before a normalisation has a gradient of rounding noise by construction."""
    parameters = (ParameterInfo(name="weight", shape=(2, 2)), ParameterInfo(name="bias", shape=(2,)))
    assert found(Vanishing(), stream(steady(300), shares=(1.0, 1e-9), parameters=parameters)) == []


@pytest.mark.parametrize(
    ("losses", "severity"),
    [
        pytest.param([2.0] * 900, "warning", id="the loss stayed"),
        pytest.param([2.0] * 100 + [1e-3] * 800, None, id="the task was solved"),
        pytest.param([2.0] * 100 + [1.5] * 800, None, id="the loss is at its floor"),
        pytest.param([None] * 900, "info", id="no loss is known"),
        pytest.param([-1.0] * 100 + [-2.0] * 800, None, id="a loss below zero that improved"),
    ],
)
def test_the_whole_gradient_vanishes_by_and_by(losses, severity):
    events = found(Vanishing(), stream(steady(300) + growing(1.0, 0.97, 600), losses=losses))
    assert [(kind, how) for _, kind, how in events] == ([] if severity is None else [("vanishing", severity)])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([2.0] * 600, [(349, "vanishing", "warning")], id="the loss stayed"),
        pytest.param([2.0] * 300 + [0.01] * 300, [], id="the loss fell with it"),
        pytest.param([None] * 600, [(349, "vanishing", "warning")], id="no loss is known"),
    ],
)
def test_the_whole_gradient_falls_within_a_step(losses, expected):
    """A task that is solved gets there by and by; a gradient that is scaled away does not."""
    fallen = events_of(Vanishing(), stream(steady(300) + steady(300, level=1e-5), losses=losses))
    assert [(e.step, e.kind, e.severity) for e in fallen if "within one step" in e.message] == expected


def test_a_fall_that_ends_is_an_event_that_ends():
    (event,) = events_of(Vanishing(), stream(steady(300) + steady(80, level=1e-5) + steady(200, seed=3)))
    assert (event.step, event.until) == (349, 379)


def test_a_layer_that_fades_beside_its_own_level_vanishes():
    records = stream(steady(500))
    for i, record in enumerate(records[300:], 300):
        norm = record.layers.norm * np.array([1, 1e-5], np.float32)
        records[i] = dataclasses.replace(record, layers=dataclasses.replace(record.layers, norm=norm))
    (event,) = events_of(Vanishing(), records)
    assert (event.step, event.parameter) == (399, "out.weight")
    assert "fell to" in event.message


def test_vanishing_is_relative_to_the_weights():
    """A weak gradient on weights as small is none that vanishes."""
    records = [
        dataclasses.replace(
            record,
            weights=WeightStats(weight_norm=np.array([1.0, 1e-8], np.float32), update_norm=np.zeros(2, np.float32)),
        )
        for record in stream(steady(300), shares=(1.0, 1e-8))
    ]
    assert found(Vanishing(), records) == []
