"""Detectors on streams whose faults are planted."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.detect import (
    Dead,
    Desync,
    Drift,
    EpsStarvation,
    Explosion,
    IdleClipping,
    IneffectiveClipping,
    LossScale,
    NonFinite,
    OverClipping,
    Spike,
    Vanishing,
    detectors_for,
    replay,
    traits_of,
)
from gradwatch.detect.level import LayerLevels, Level
from gradwatch.record import CLIP_FAULTS, LayerStats, ParameterInfo, StepRecord, WeightStats, merged
from gradwatch.testing import check_detector, replaced, steady, stream, write_run

DETECTORS = [
    Dead,
    Drift,
    Explosion,
    IdleClipping,
    IneffectiveClipping,
    LossScale,
    NonFinite,
    OverClipping,
    Spike,
    Vanishing,
]
NAN, INF = math.nan, math.inf


def events_of(detector, records):
    return merged(event for record in records for event in detector.update(record))


def found(detector, records):
    return [(event.step, event.kind, event.severity) for event in events_of(detector, records)]


def growing(start, factor, steps):
    return [start * factor**i for i in range(steps)]


STREAMS = {
    "calm": steady(700),
    "constant": [1.0] * 700,
    "empty": [],
    "one": [1.0],
    "zeros": [0.0] * 300,
    "wild": steady(700, spread=1.2, seed=3),
    "a spike": replaced(steady(700), {400: 60.0}),
    "NaN, then a spike": replaced(steady(700), {400: NAN, 460: 60.0}),
    "infinity, then a spike": replaced(steady(700), {400: INF, 460: 60.0}),
    "constant, then a spike": replaced([1.0] * 700, {400: 60.0}),
    "growing to infinity": steady(500) + growing(1.0, 1.6, 180) + [INF, NAN, NAN],
    "a new level": steady(500) + steady(400, level=20.0, seed=5),
    "fading": steady(400) + growing(1.0, 0.9, 300),
    "huge": [1e300, INF, 1e-300] * 50,
}


@pytest.mark.parametrize("stream_name", STREAMS)
@pytest.mark.parametrize("make", DETECTORS, ids=lambda d: d.__name__)
def test_the_contract_of_detectors(make, stream_name):
    check_detector(make, stream(STREAMS[stream_name]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.floats(0, 1e6), st.sampled_from([NAN, INF, 0.0])), max_size=200), st.sampled_from(DETECTORS)
)
def test_no_stream_breaks_a_detector(norms, make):
    detector = make()
    for record in stream(norms):
        for event in detector.update(record):
            assert event.step == record.step
            assert event.message
            assert event.severity in ("info", "warning", "critical")


@pytest.mark.parametrize("drop", ["layers", "loss", "weights"])
def test_records_without_a_part_are_judged_by_the_rest(drop):
    records = [dataclasses.replace(r, **{drop: None}) for r in stream(STREAMS["growing to infinity"])]
    assert "explosion" in {event.kind for event in replay(records)}


# ------------------------------------------------------------------------------------------ spike


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


# -------------------------------------------------------------------------------------- explosion


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


def test_a_loss_that_is_lost_while_the_gradient_is_finite():
    losses = [1.0] * 20 + [INF, NAN]
    detector = NonFinite()
    (event,) = [e for record in stream([1.0] * 22, losses=losses) for e in detector.update(record)]
    assert (event.step, event.severity, event.observed) == (20, "critical", INF)
    assert "the loss is inf, while every gradient is finite" in event.message


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


# -------------------------------------------------------------------------------------- nonfinite


def layered(step, norms, nonfinite, total=None, **more):
    parameters = tuple(ParameterInfo(name=f"layer{i}", shape=(2, 2)) for i in range(len(norms)))
    stats = LayerStats(
        parameters=parameters, norm=np.array(norms, np.float32), nonfinite=np.array(nonfinite, np.float32)
    )
    total = total if total is not None else (NAN if any(n > 0 for n in nonfinite) else float(np.linalg.norm(norms)))
    return StepRecord(step=step, total_norm=total, nonfinite=int(np.nansum(nonfinite)), layers=stats, **more)


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


# ------------------------------------------------------------------- vanishing, dead, overclipping


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


@pytest.mark.parametrize(
    ("optimizer", "max_norm", "expected"),
    [
        pytest.param("SGD", 0.1, "warning", id="SGD slowed tenfold"),
        pytest.param("SGD", 0.99, "info", id="SGD clipped lightly at half of the steps"),
        pytest.param("AdamW", 0.1, "info", id="Adam is normalised"),
        pytest.param("SGD", 10.0, None, id="a guard that never acts"),
    ],
)
def test_overclipping(optimizer, max_norm, expected):
    events = found(OverClipping(traits_of(optimizer).update_rule), stream(steady(400, seed=2), max_norm=max_norm))
    assert [severity for _, _, severity in events] == ([] if expected is None else [expected])


def backed_off(records, steps):
    return [
        dataclasses.replace(r, skipped=r.step in steps, loss_scale=2.0**16, total_norm=INF if r.step in steps else 1.0)
        for r in records
    ]


def test_a_scaler_that_backs_off_is_noted_once_and_a_streak_is_a_warning():
    records = backed_off(stream([1.0] * 200), {5, 7, 100})
    assert found(LossScale(), records) == [(5, "loss-scale", "info"), (100, "loss-scale", "info")]
    records = backed_off(stream([1.0] * 200), set(range(50, 70)))
    assert found(LossScale(), records) == [(50, "loss-scale", "info"), (57, "loss-scale", "warning")]


def test_a_back_off_is_no_explosion_and_no_nonfinite_event():
    records = backed_off(stream([1.0] * 200), {100, 101, 102})
    assert {event.kind for event in replay(records)} == {"loss-scale"}


# ------------------------------------------------------------------------------------- the levels


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_the_streaming_level_is_the_median_of_the_window(norms):
    """At every prefix, against numpy."""
    level = Level(window=16, least=1)
    for i, norm in enumerate(norms):
        level.add(norm)
        window = sorted(norms[max(0, i - 15) : i + 1])
        assert level.value == pytest.approx(window[len(window) // 2])


def test_a_lagged_level_does_not_see_the_last_steps():
    level = Level(window=100, least=1, lag=60)
    for norm in [1.0] * 40 + [99.0] * 60:
        level.add(norm)
    assert level.value == pytest.approx(1.0)


def test_a_history_without_layers_names_nobody():
    assert LayerLevels().first_to_leave() == (None, None)
    assert LayerLevels().highest() == (None, None)


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


# ---------------------------------------------------------------------------------- idle clipping


@pytest.mark.parametrize(
    ("norms", "max_norm", "steps"),
    [
        pytest.param(steady(3000), 10.0, [999], id="far below"),
        pytest.param(steady(3000), 1.8, [], id="near enough"),
        pytest.param(replaced(steady(3000), {500: 20.0}), 10.0, [1500], id="acted once"),
        pytest.param(replaced(steady(3000), {500: math.nan}), 10.0, [1000], id="a NaN is no norm"),
        pytest.param(steady(900), 10.0, [], id="too short"),
        pytest.param(steady(3000), None, [], id="no clipping"),
        pytest.param(steady(3000), math.inf, [], id="only to log"),
    ],
)
def test_a_threshold_that_never_acts(norms, max_norm, steps):
    records = stream(norms, max_norm=max_norm)
    assert found(IdleClipping(), records) == [(step, "idle-clipping", "info") for step in steps]
    assert found(IdleClipping(), stream([])) == []


def test_another_threshold_starts_the_count_again():
    records = [*stream(steady(800), max_norm=10.0), *stream(steady(1200), max_norm=20.0, first_step=800)]
    assert found(IdleClipping(), records) == [(1799, "idle-clipping", "info")]


# ------------------------------------------------------------------------------ ineffective clipping


def test_a_fault_of_clipping_is_one_event_until_it_has_been_away():
    faults = ["after-step"] * 200 + [None] * 100 + ["after-step"] * 200 + [None] * 301 + ["after-step"] * 3
    records = [dataclasses.replace(r, clip_fault=f) for r, f in zip(stream([1.0] * len(faults)), faults, strict=True)]
    kind = "ineffective-clipping"
    assert found(IneffectiveClipping(), records) == [(0, kind, "warning"), (801, kind, "warning")]
    check_detector(IneffectiveClipping, records)


@pytest.mark.parametrize("fault", CLIP_FAULTS)
def test_every_cause_is_told_with_what_to_do(fault):
    record = dataclasses.replace(stream([2.0])[0], clip_fault=fault, loss_scale=1024.0, max_norm=1e-3)
    (event,) = IneffectiveClipping().update(record)
    assert event.severity == ("info" if fault == "micro-batch" else "warning")
    assert re.search("call it|call scaler|clip |give it|Clip once", event.message)
    if fault == "before-unscale":
        assert "loss scale 1024" in event.message
        assert "0.001" in event.message


# -------------------------------------------------------------------------------- live and replayed


@pytest.mark.parametrize("name", STREAMS)
def test_replayed_events_are_those_that_were_raised_live(tmp_path, name):
    write_run(tmp_path, stream(STREAMS[name]))
    run = Run(tmp_path)
    assert repr(replay(run.records())) == repr(run.events())


def test_there_is_one_of_each_detector():
    assert {type(d) for d in detectors_for()} == {*DETECTORS, EpsStarvation, Desync}


# ------------------------------------------------------------------------------ what the loss tells


def lossy(norms, losses, **more):
    return stream(norms, losses=losses, **more)


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


def many_layers(steps, lift=None, seed=0, losses=None):
    """Six parameters that scatter alike; ``lift`` maps (step, index) to a factor."""
    random = np.random.default_rng(seed)
    parameters = tuple(ParameterInfo(name=f"{i}.weight", shape=(4, 4)) for i in range(6))
    records = []
    for step in range(steps):
        norm = np.exp(0.1 * random.standard_normal(6))
        for index in range(6):
            norm[index] *= (lift or {}).get((step, index), 1.0)
        norm = norm.astype(np.float32)
        stats = LayerStats(parameters=parameters, norm=norm, abs_max=norm, nonfinite=np.zeros(6, np.float32))
        loss = None if losses is None else losses[step]
        records.append(StepRecord(step=step, total_norm=float(np.linalg.norm(norm)), layers=stats, loss=loss))
    return records


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


def test_thawed_layers_are_another_total_and_no_event():
    records = many_layers(600, {(step, i): 20.0 for step in range(600) for i in (0, 1)})
    frozen = np.array([NAN, NAN, 0, 0, 0, 0], np.float32)
    for step, record in enumerate(records[:300]):
        layers = record.layers
        layers = dataclasses.replace(layers, norm=layers.norm + frozen, nonfinite=frozen, abs_max=None)
        total = float(np.sqrt(np.nansum(layers.norm.astype(float) ** 2)))
        records[step] = dataclasses.replace(record, total_norm=total, layers=layers)
    assert records[300].total_norm > 10 * records[299].total_norm
    assert [event for event in replay(records) if event.severity != "info"] == []


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


# --------------------------------------------------------------------------------- drift, starvation


def test_a_drift_is_information():
    events = events_of(Drift(), stream(steady(700) + growing(1.0, 1.01, 200)))
    assert {event.severity for event in events} == {"info"}
    assert 700 < events[0].step < 800
    assert "drifted up since step" in events[0].message
    assert found(Drift(), stream(steady(3000))) == []


@pytest.mark.parametrize(
    ("norm", "eps", "expected"),
    [
        pytest.param(1e-9, 1e-8, [99], id="smaller than eps"),
        pytest.param(1e-6, 1e-8, [], id="larger than eps"),
        pytest.param(1e-9, None, [], id="an optimizer without eps"),
    ],
)
def test_gradients_under_adams_eps(norm, eps, expected):
    parameters = [ParameterInfo(name=n, shape=(10, 10)) for n in ("a", "b")]
    events = found(
        EpsStarvation(traits_of("Adam", {"eps": eps})), stream(steady(300, level=norm), parameters=parameters)
    )
    assert events == [(step, "eps-starvation", "info") for step in expected]


# ---------------------------------------------------------------------------------------- dead units


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


def test_a_language_model_is_never_solved():
    """Its loss goes from 10.8 to 2: a spike there is one."""
    losses = [10.8] * 200 + [2.0] * 500
    assert found(Spike(), lossy(replaced(steady(700), {600: 60.0}), losses)) == [(600, "spike", "warning")]


def test_a_large_norm_in_a_task_that_is_solved_is_information():
    losses = [2.0] * 200 + [0.01] * 500
    assert found(Spike(), lossy(replaced(steady(700), {600: 60.0}), losses)) == [(600, "spike", "info")]


def test_a_parameter_that_moves_again_ends_its_event():
    events = events_of(Dead(), with_dead_units(200, lambda step: 16 if step < 120 else 0))
    assert [(event.step, event.until) for event in events] == [(49, 119)]


# ---------------------------------------------------------------------------- where a NaN came from


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
    assert (
        origin is None
        or {"weights": "came from the weights", "loss": "came with the loss"}.get(origin, "came from the backward pass")
        in event.message
    )


def test_a_nonfinite_stretch_ends_with_its_last_step():
    (first, second) = events_of(NonFinite(), stream(replaced(steady(300), {100: NAN, 130: INF, 250: NAN})))
    assert (first.until, second.until) == (130, None)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.sampled_from([-26, 26]))
def test_events_do_not_depend_on_the_scale_of_the_norms(seed, power):
    """All norms times 10^8 or 10^-8: a stream with a spike, growth, a fall and a NaN."""
    random = np.random.default_rng(seed)
    norms = np.exp(0.3 * random.standard_normal(900))
    norms[random.integers(200, 900, 3)] *= 50
    norms[600:640] *= 1.2 ** np.arange(40)
    norms[random.integers(200, 900)] = NAN
    records = stream(norms.tolist())

    def scaled(record):
        layers = dataclasses.replace(record.layers, norm=record.layers.norm * np.float32(2.0**power))
        return dataclasses.replace(record, total_norm=record.total_norm * 2.0**power, layers=layers, weights=None)

    plain = [dataclasses.replace(record, weights=None) for record in records]
    expected = [(e.step, e.kind, e.severity, e.parameter, e.until) for e in replay(plain)]
    assert expected
    assert [(e.step, e.kind, e.severity, e.parameter, e.until) for e in replay(map(scaled, plain))] == expected


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


def test_a_nan_that_left_no_trace_is_lowered_to_a_warning():
    events = found(NonFinite(), stream(replaced(steady(300), {100: NAN})))
    assert events == [(100, "nonfinite", "warning")]
    assert found(NonFinite(), stream(steady(100) + [NAN] * 100)) == [(100, "nonfinite", "critical")]


def test_a_logged_loss_of_zero_beside_a_nan_says_nothing_of_the_loss():
    (event,) = NonFinite().update(layered(41, [NAN, 1], [1, 0], loss=0.0))
    assert event.origin is None
    assert "still finite" not in event.message


def test_a_scaler_that_skips_a_step_whose_loss_is_lost_is_no_overflow():
    record = layered(5, [NAN, NAN], [1, 1], loss=NAN, skipped=True, loss_scale=1024.0)
    assert LossScale().update(record) == []
    (event,) = NonFinite().update(record)
    assert event.severity == "warning"


def test_an_infinite_norm_without_layers_is_not_said_to_be_of_finite_entries():
    (event,) = NonFinite().update(StepRecord(step=0, total_norm=INF))
    assert event.message == "NaN or infinite gradient"


def test_muons_eps_is_compared_with_the_norm_of_a_matrix():
    parameters = [ParameterInfo(name=n, shape=(100, 100)) for n in ("a", "b")]
    records = stream(steady(300, level=1e-6), parameters=parameters)
    assert found(EpsStarvation(traits_of("Muon", {"eps": 1e-7})), records) == []
    assert found(EpsStarvation(traits_of("Adam", {"eps": 1e-7})), records) == [(99, "eps-starvation", "info")]
    assert found(EpsStarvation(traits_of("Muon", {"eps": 1e-5})), records) == [(99, "eps-starvation", "info")]


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
