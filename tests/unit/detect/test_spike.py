"""Single steps that stand out of the level of the norms."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.detect import Spike
from gradwatch.testing import check_detector, replaced, steady, stream

from .streams import STREAMS, events_of, found, lossy, many_layers


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        pytest.param(STREAMS["calm"], [], id="calm"),
        pytest.param(STREAMS["constant"], [], id="constant"),
        pytest.param(STREAMS["constant, then a spike"], [400], id="constant, then a spike"),
        pytest.param(STREAMS["NaN, then a spike"], [460], id="a NaN does not blind"),
        pytest.param(STREAMS["infinity, then a spike"], [460], id="an infinity does not blind"),
        pytest.param(replaced(steady(700), {400: 50.0, 460: 60.0}), [400, 460], id="a spike does not hide the next"),
        pytest.param(replaced(steady(700), {400: 50.0, 410: 50.0}), [400], id="spikes close together are one event"),
        pytest.param(
            replaced(steady(700), dict.fromkeys([*range(400, 480), 540], 60.0)),
            [400, 540],
            id="a long alarm does not become the level",
        ),
        pytest.param(replaced(steady(20), {10: 50.0}), [], id="too early to know"),
        pytest.param(STREAMS["a new level"], [500], id="a new level is said once and then believed"),
        pytest.param(STREAMS["wild"], [], id="wild norms are judged by their own spread"),
    ],
)
def test_spike(norms, expected):
    assert [step for step, _, _ in found(Spike(), stream(norms))] == expected


def test_a_spike_that_clipping_held_is_information():
    (event,) = found(Spike(), stream(STREAMS["a spike"], max_norm=2.0))
    assert event == (400, "spike", "info")
    (event,) = found(Spike(), stream(STREAMS["a spike"]))
    assert event == (400, "spike", "warning")


def test_a_spike_names_the_parameter_furthest_from_its_own_level():
    records = stream(steady(300))
    layers = records[200].layers
    norm = layers.norm * np.array([1, 100], np.float32)
    records[200] = dataclasses.replace(
        records[200], total_norm=float(np.linalg.norm(norm)), layers=dataclasses.replace(layers, norm=norm)
    )
    (event,) = events_of(Spike(), records)
    assert event.parameter == "out.weight"
    assert event.observed > event.limit
    assert event.until == 200


CALM_LOSS = [2.0 + 0.1 * math.sin(i) for i in range(1000)]


@pytest.mark.parametrize(
    ("norm", "loss", "expected"),
    [
        pytest.param(3.5, 12.0, "warning", id="a bad batch: the loss rises with the norm"),
        pytest.param(3.5, 2.0, "info", id="the same norm with the loss as it was"),
        pytest.param(30.0, 2.0, "warning", id="a norm that needs no witness"),
        pytest.param(1.2, 12.0, None, id="the loss alone is no matter of gradients"),
        pytest.param(3.5, None, "info", id="no loss was logged at that step"),
    ],
)
def test_a_spike_is_weighed_with_the_loss(norm, loss, expected):
    losses = [loss if step == 600 else CALM_LOSS[step] for step in range(700)]
    events = found(Spike(), lossy(replaced(steady(700), {600: norm}), losses))
    assert [severity for _, _, severity in events] == ([] if expected is None else [expected])


def test_a_loss_that_is_small_beside_the_first_ones_is_no_bad_batch():
    """In a task that is solved one hard sample multiplies loss and norm, and nothing comes of it."""
    losses = [2.0] * 200 + [0.001] * 500
    losses[600] = 0.05
    assert found(Spike(), lossy(replaced(steady(700), {600: 4.0}), losses)) == [(600, "spike", "info")]


def test_a_training_that_has_such_norms_all_the_time_is_left_alone():
    often = dict.fromkeys(range(100, 1500, 37), 15.0)
    events = events_of(Spike(), stream(replaced(steady(1500), often)))
    assert [e.step for e in events if e.severity == "warning" and e.step > 300] == []
    (worse,) = [
        e
        for e in events_of(Spike(), stream(replaced(steady(1500), often | {1400: 90.0})))
        if e.step > 1390 and e.severity == "warning"
    ]
    assert (worse.step, worse.until) == (1400, 1400)


def test_a_fourth_spike_within_a_thousand_steps_has_to_be_larger():
    spikes = dict.fromkeys((700, 800, 900, 1000), 40.0)
    events = found(Spike(), stream(replaced(steady(1300), spikes | {1100: 100.0})))
    assert events == [
        (700, "spike", "warning"),
        (800, "spike", "warning"),
        (900, "spike", "warning"),
        (1000, "spike", "info"),
        (1100, "spike", "warning"),
    ]


def test_a_jump_in_one_layer_is_a_spike_even_where_the_loss_stays():
    events = events_of(Spike(), many_layers(400, {(300, 2): 12.0}, losses=CALM_LOSS))
    assert [(e.step, e.severity, e.parameter, e.origin) for e in events] == [(300, "warning", "2.weight", "backward")]
    check_detector(Spike, many_layers(400, {(300, 2): 12.0}))


def test_a_layer_that_grows_is_no_spike():
    growth = {(step, 2): 1.04 ** (step - 200) for step in range(200, 300)}
    growth |= {(step, 2): 1.04**100 for step in range(300, 400)}
    assert [e for e in found(Spike(), many_layers(400, growth, losses=CALM_LOSS)) if e[2] != "info"] == []


def test_what_grows_in_one_layers_backward_is_named_there_and_not_where_it_ends_up():
    """Layers 0 to 3 get what left layer 3, each by about as much; 3 is the first in backward order."""
    (event,) = events_of(Spike(), many_layers(400, {(300, i): 20.0 for i in range(4)}))
    assert event.parameter == "3.weight"


def test_a_language_model_is_never_solved():
    """Its loss goes from 10.8 to 2: a spike there is one."""
    losses = [10.8] * 200 + [2.0] * 500
    assert found(Spike(), lossy(replaced(steady(700), {600: 60.0}), losses)) == [(600, "spike", "warning")]


def test_a_large_norm_in_a_task_that_is_solved_is_information():
    losses = [2.0] * 200 + [0.01] * 500
    assert found(Spike(), lossy(replaced(steady(700), {600: 60.0}), losses)) == [(600, "spike", "info")]
