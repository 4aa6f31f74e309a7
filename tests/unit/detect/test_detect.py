"""All detectors together: their contract, and streams with planted faults."""

import dataclasses
import functools

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
    HeldSpike,
    IdleClipping,
    IneffectiveClipping,
    LossScale,
    NonFinite,
    NothingMoves,
    OverClipping,
    Spike,
    StaleSecondMoment,
    UpdateSpike,
    Vanishing,
    detectors_for,
    replay,
)
from gradwatch.testing import check_detector, stream, write_run

from .streams import INF, NAN, STREAMS, backed_off, many_layers

DETECTORS = [
    Dead,
    Drift,
    Explosion,
    IdleClipping,
    IneffectiveClipping,
    LossScale,
    NonFinite,
    NothingMoves,
    OverClipping,
    Spike,
    StaleSecondMoment,
    UpdateSpike,
    Vanishing,
]


@functools.cache
def records_of(stream_name):
    return tuple(stream(STREAMS[stream_name]))


@pytest.mark.parametrize("stream_name", STREAMS)
@pytest.mark.parametrize("make", DETECTORS, ids=lambda d: d.__name__)
def test_the_contract_of_detectors(make, stream_name):
    check_detector(make, records_of(stream_name))


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


def test_a_back_off_is_no_explosion_and_no_nonfinite_event():
    records = backed_off(stream([1.0] * 200), {100, 101, 102})
    assert {event.kind for event in replay(records)} == {"loss-scale"}


@pytest.mark.parametrize("name", STREAMS)
def test_replayed_events_are_those_that_were_raised_live(tmp_path, name):
    write_run(tmp_path, stream(STREAMS[name]))
    run = Run(tmp_path)
    assert repr(replay(run.records())) == repr(run.events())


def test_there_is_one_of_each_detector():
    assert {type(d) for d in detectors_for()} == {
        *DETECTORS,
        EpsStarvation,
        Desync,
        UpdateSpike,
        StaleSecondMoment,
        NothingMoves,
        HeldSpike,
    }


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
