"""Gradients and losses that are not finite, and where they came from."""

import dataclasses

import numpy as np
import pytest

from gradwatch.detect import NonFinite
from gradwatch.record import StepRecord, WeightStats
from gradwatch.testing import replaced, steady, stream

from .streams import INF, NAN, events_of, found, layered


def test_a_loss_that_is_lost_while_the_gradient_is_finite():
    losses = [1.0] * 20 + [INF, NAN]
    detector = NonFinite()
    (event,) = [e for record in stream([1.0] * 22, losses=losses) for e in detector.update(record)]
    assert (event.step, event.severity, event.observed) == (20, "critical", INF)
    assert "the loss is inf, while every gradient is finite" in event.message


@pytest.mark.parametrize(
    ("record", "parameter", "says"),
    [
        (layered(0, [NAN, NAN, 1], [1, 3, 0]), "layer1", "3 NaN entries in the gradient of layer1; 2 of 3"),
        (layered(0, [1, INF, 1], [0, 1, 0], total=INF), "layer1", "1 infinite entry in the gradient of layer1; 1 of 3"),
        (
            layered(0, [NAN, NAN], [1, 1], loss=NAN),
            "layer1",
            "every parameter affected; the loss was not finite either",
        ),
        (layered(0, [NAN, 1], [1, 0], loss=0.5), "layer0", "the loss was still finite"),
        (layered(0, [NAN, 1, NAN], [1, 0, NAN]), "layer0", "1 of 2 parameters affected"),
        (StepRecord(step=0, total_norm=NAN, nonfinite=1), None, "NaN or infinite gradient"),
    ],
)
def test_nonfinite_names_the_first_in_backward_order(record, parameter, says):
    (event,) = NonFinite().update(record)
    assert event.parameter == parameter
    assert says in event.message
    assert event.severity == "critical"


def test_a_skipped_nonfinite_step_is_a_warning():
    (event,) = NonFinite().update(layered(0, [NAN], [1], skipped=True))
    assert event.severity == "warning"


def test_a_stretch_of_nonfinite_steps_is_one_event():
    norms = replaced(steady(300), {100: NAN, 101: NAN, 130: INF, 250: NAN})
    assert [step for step, _, _ in found(NonFinite(), stream(norms))] == [100, 250]


def bad_step(loss, weight_norm):
    record = layered(5, [NAN, NAN, NAN], [4, 4, 4], loss=loss)
    if weight_norm is None:
        return record
    weights = WeightStats(weight_norm=np.array(weight_norm, np.float32), update_norm=np.zeros(3, np.float32))
    return dataclasses.replace(record, weights=weights)


@pytest.mark.parametrize(
    ("record", "origin", "parameter"),
    [
        pytest.param(bad_step(NAN, [1, NAN, 1]), "weights", "layer1", id="the weights"),
        pytest.param(bad_step(NAN, [1, 1, 1]), "loss", None, id="the input or the target"),
        pytest.param(bad_step(0.5, [1, 1, 1]), "backward", "layer2", id="the backward pass"),
        pytest.param(bad_step(NAN, None), None, "layer2", id="the weights were not looked at"),
        pytest.param(layered(0, [NAN, 1, 1], [1, 0, 0]), None, "layer0", id="no loss is known"),
    ],
)
def test_where_a_nan_came_from(record, origin, parameter):
    (event,) = NonFinite().update(record)
    assert (event.origin, event.parameter) == (origin, parameter)
    told = {"weights": "the weights of layer1 were not finite", "loss": "the loss was not finite either"}
    assert origin is None or told.get(origin, "the loss was still finite") in event.message


def test_a_nonfinite_stretch_ends_with_its_last_step():
    (first, second) = events_of(NonFinite(), stream(replaced(steady(300), {100: NAN, 130: INF, 250: NAN})))
    assert (first.until, second.until) == (130, None)


def test_a_nan_that_left_no_trace_is_lowered_to_a_warning():
    events = found(NonFinite(), stream(replaced(steady(300), {100: NAN})))
    assert events == [(100, "nonfinite", "warning")]
    assert found(NonFinite(), stream(steady(100) + [NAN] * 100)) == [(100, "nonfinite", "critical")]


def test_a_logged_loss_of_zero_beside_a_nan_says_nothing_of_the_loss():
    (event,) = NonFinite().update(layered(41, [NAN, 1], [1, 0], loss=0.0))
    assert event.origin is None
    assert "still finite" not in event.message


def test_an_infinite_norm_without_layers_is_not_said_to_be_of_finite_entries():
    (event,) = NonFinite().update(StepRecord(step=0, total_norm=INF))
    assert event.message == "NaN or infinite gradient"
