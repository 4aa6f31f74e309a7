"""Norms that leave their level and stay away."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.detect import Explosion, replay, traits_of
from gradwatch.record import ParameterInfo, WeightStats, merged
from gradwatch.testing import replaced, steady, stream

from .streams import NAN, STREAMS, events_of, found, growing, lossy, many_layers


def test_growth_is_warned_of_and_becomes_critical():
    detector = Explosion()
    records = stream(steady(500) + growing(1.0, 1.25, 60) + steady(60, seed=4))
    events = [event for record in records for event in detector.update(record)]
    assert [(event.severity, event.until) for event in events] == [
        ("warning", None),
        ("critical", None),
        ("warning", 564),
    ], "lowered once the norms came back"
    assert len(merged(events)) == 1
    assert 505 <= events[0].step <= 515


def test_one_unclipped_step_a_thousand_times_above_is_enough():
    events = found(Explosion("follows-gradient"), stream(replaced(steady(500), {300: 1000.0})))
    assert events == [(300, "explosion", "warning")]
    alone = stream(replaced(steady(500), {300: 1000.0}))[:320]
    assert found(Explosion("follows-gradient"), alone) == [(300, "explosion", "critical")], "until it came back"


def test_a_run_that_explodes_from_the_start():
    """The norms of a real one, which was lost before its level was known."""
    norms = [8.3, 8.8, 29.0, 3.8e3, 6.6e3, 3.8e5, 1e7, 8.5e8, 7e10, 6.1e12, 5.2e14]
    assert found(Explosion(), stream(norms)) == []
    calm = [8.3, 8.8, 9.0, 7.0, 8.0]
    assert found(Explosion("follows-gradient"), stream(calm + norms))[0] == (8, "explosion", "critical")


def test_clipped_growth_is_information():
    events = found(Explosion(), stream(steady(500) + growing(1.0, 1.25, 60), max_norm=1.0))
    assert {severity for _, _, severity in events} == {"info"}


def test_growth_that_ends_in_nan_within_a_few_steps():
    norms = steady(500) + [5.0, 30.0, NAN, NAN]
    events = found(Explosion(), stream(norms))
    assert events[-1][1:] == ("explosion", "critical")
    assert events[-1][0] <= 502


def test_calm_and_wild_runs_do_not_explode():
    for name in ("calm", "constant", "wild", "fading", "zeros"):
        assert found(Explosion(), stream(STREAMS[name])) == []


def test_an_explosion_names_the_parameter_that_left_first():
    records = stream(steady(400))
    for i, record in enumerate(records[300:340]):
        early, late = 1.4**i, 1.4 ** max(0, i - 6)
        norm = record.layers.norm * np.array([late, early], np.float32)
        layers = dataclasses.replace(record.layers, norm=norm)
        records[300 + i] = dataclasses.replace(record, total_norm=float(np.linalg.norm(norm)), layers=layers)
    detector = Explosion()
    events = [event for record in records[:340] for event in detector.update(record)]
    assert {event.parameter for event in events} == {"out.weight"}


@pytest.mark.parametrize(
    ("loss_after", "severity"),
    [
        pytest.param(1.5, "info", id="a training that gets going"),
        pytest.param(4.0, "critical", id="the loss left its level too"),
        pytest.param(None, "critical", id="no loss is known"),
    ],
)
def test_an_explosion_is_weighed_with_the_loss(loss_after, severity):
    losses = None if loss_after is None else [2.0] * 500 + [loss_after] * 60
    norms = steady(500) + growing(1.0, 1.25, 16) + [30.0] * 44
    (event,) = events_of(Explosion(), lossy(norms, losses))
    assert event.severity == severity


def test_an_explosion_that_gets_worse_in_another_layer_names_the_one_where_it_began():
    rise = {(step, 2): 40.0 for step in range(300, 310)} | {(step, 4): 400.0 for step in range(310, 330)}
    events = replay(many_layers(400, rise, losses=[2.0] * 315 + [9.0] * 85))
    explosions = [event for event in events if event.kind == "explosion"]
    assert {event.parameter for event in explosions} == {"2.weight"}
    assert explosions[-1].severity == "critical"
    assert all("first in 2.weight" in event.message for event in explosions)


def test_a_loss_that_stays_lost_after_a_rise_is_critical_wherever_the_norms_went():
    norms = replaced(steady(700), dict.fromkeys(range(500, 504), 30.0))
    records = lossy(norms, [2.0] * 500 + [7.0] * 200)
    (event,) = events_of(Explosion(), records)
    assert (event.severity, event.step) == ("critical", 523)
    assert found(Explosion(), lossy(steady(700), [2.0] * 500 + [7.0] * 200)) == [], "a loss alone is another's business"


@pytest.mark.parametrize(("optimizer", "severity"), [("SGD", "warning"), ("AdamW", "info")])
def test_one_huge_unclipped_step_from_which_the_loss_came_back_is_no_more_than_a_warning(optimizer, severity):
    records = lossy(replaced(steady(500), {300: 1000.0}), [2.0] * 500)
    assert found(Explosion(traits_of(optimizer).update_rule), records) == [(300, "explosion", severity)]


def test_an_explosion_where_the_learning_rate_is_not_known_is_told_without_it():
    """An imported history may lack it at some steps."""
    rates = [(0.1,)] * 299 + [(0.5,)] + [()] * 60
    records = stream([*steady(300), *growing(1.0, 1.3, 60)])
    detector = Explosion()
    events = [
        event
        for record, rate in zip(records, rates, strict=True)
        for event in detector.update(dataclasses.replace(record, learning_rates=rate))
    ]
    assert events
    assert not any("learning rate" in event.message for event in events)


def test_norms_that_move_with_a_changed_learning_rate_are_explained():
    records = stream(steady(500) + steady(60, level=5.0, seed=7))
    changed = [dataclasses.replace(r, learning_rates=(0.1 if r.step < 495 else 1.0,)) for r in records]
    assert {severity for _, _, severity in found(Explosion(), changed)} == {"info"}
    assert {severity for _, _, severity in found(Explosion(), records)} == {"warning"}


def test_an_update_larger_than_the_weights_is_an_explosion_from_the_first_step():
    record = dataclasses.replace(
        stream([1.0], parameters=[ParameterInfo(name=n, shape=(2, 2)) for n in ("a", "b")])[0],
        weights=WeightStats(weight_norm=np.ones(2, np.float32), update_norm=np.array([0.1, 1.5], np.float32)),
    )
    (event,) = Explosion().update(record)
    assert (event.severity, event.parameter, event.observed) == ("warning", "b", 1.5)
    assert "changed b by 1.5 times its own norm at a learning rate of 0.1" in event.message
    one, many = (Explosion(iterates=traits_of("LBFGS", {"max_iter": most}).iterates) for most in (1, 20))
    assert one.update(record) == [event]
    assert many.update(record) == []


def test_a_spike_from_which_the_loss_does_not_come_back_stays_critical():
    norms = replaced(steady(700), {300: 1000.0})
    events = events_of(Explosion("follows-gradient"), stream(norms, losses=[2.0] * 300 + [9.0] * 400))
    assert [(event.step, event.severity) for event in events] == [(300, "critical")]


def test_a_learning_rate_that_decays_is_no_reason_for_an_explosion():
    """Norms that jump between two levels, a surrogate loss about zero that shifts, a rate that falls to 0."""
    random = np.random.default_rng(1)
    norms = random.choice([0.012, 0.11], 200) * np.exp(0.3 * random.standard_normal(200))
    losses = np.where(np.arange(200) < 120, random.normal(-0.03, 0.01, 200), random.normal(0.012, 0.004, 200))
    records = [
        dataclasses.replace(r, learning_rates=(1e-4 * (1 - r.step / 201),))
        for r in stream(norms.tolist(), losses=losses.tolist())
    ]
    for record in records[150:]:
        assert record.total_norm < 1
    low = [dataclasses.replace(r, total_norm=min(r.total_norm, 0.02)) for r in records]
    assert [e for e in found(Explosion("normalises"), low) if e[2] == "critical"] == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("weight", [0.0, math.inf, math.nan])
def test_weights_that_are_zero_or_not_finite_and_parameters_without_entries_raise_no_warning(weight):
    shapes = {"empty": (0, 4), "layer": (2, 2), "other": (2, 2)}
    record = dataclasses.replace(
        stream([1.0], parameters=[ParameterInfo(name=n, shape=shape) for n, shape in shapes.items()])[0],
        weights=WeightStats(
            weight_norm=np.array([0.0, weight, 1.0], np.float32), update_norm=np.array([0.0, weight, 1e-3], np.float32)
        ),
    )
    assert Explosion().update(record) == []


def test_a_parameter_that_begins_near_zero_does_not_explode_when_it_moves():
    record = dataclasses.replace(
        stream([1.0], parameters=[ParameterInfo(name=n, shape=(2, 2)) for n in ("layer", "token")])[0],
        weights=WeightStats(
            weight_norm=np.array([1.0, 1e-6], np.float32), update_norm=np.array([1e-3, 1e-5], np.float32)
        ),
    )
    assert Explosion().update(record) == []
