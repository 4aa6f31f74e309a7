"""Updates that jump, second moments that lag, and updates that move nothing: on streams with known answers."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.detect import HeldSpike, NothingMoves, StaleSecondMoment, UpdateSpike
from gradwatch.record import ParameterInfo, SentinelStats, UpdateStats, WeightStats, merged
from gradwatch.testing import check_detector, steady, stream

PARAMETERS = (
    ParameterInfo(name="embedding.weight", shape=(50, 8)),
    ParameterInfo(name="head.bias", shape=(50,)),
)


def updated(updates, ratios=None, *, rates=None, seed=1):
    """A calm stream of gradients whose updates have these norms, at a rate of 0.1 unless others are given."""
    records = []
    calm = steady(len(updates), spread=0.05, seed=seed)
    for step, record in enumerate(stream(calm, parameters=PARAMETERS)):
        norm = updates[step]
        rms = [1.0, 1.0] if ratios is None else ratios[step]
        stats = UpdateStats(
            update_norm=np.array([0.8 * norm, 0.6 * norm], np.float32),
            weight_norm=np.ones(2, np.float32),
            rms_ratio=np.array(rms, np.float32),
            second_moment_norm=np.ones(2, np.float32),
        )
        rate = 0.1 if rates is None else rates[step]
        records.append(
            dataclasses.replace(
                record, updates=stats, update_norm=norm, weight_norm=math.sqrt(2.0), learning_rates=(rate,)
            )
        )
    return records


def found(make, records):
    return [(event.step, event.severity, event.parameter) for event in check_detector(make, records)]


CALM = steady(300, level=1e-3, spread=0.05)


def at_some_steps(records, every=10):
    """The same stream where all updates are read at every tenth step and those of the embedding at the others."""
    first = np.zeros(1, np.float32)
    return [
        record
        if record.step % every == 0
        else dataclasses.replace(
            record,
            updates=None,
            update_norm=None,
            weight_norm=None,
            sentinels=SentinelStats(
                position=first,
                update_norm=record.updates.update_norm[:1],
                weight_norm=record.updates.weight_norm[:1],
                rms_ratio=record.updates.rms_ratio[:1],
            ),
        )
        for record in records
    ]


@pytest.mark.parametrize("step", [47, 199, 200])
def test_an_update_of_the_sentinels_far_above_those_before_it_is_found_between_readings_of_all(step):
    updates = list(CALM)
    updates[step] *= 10
    records = at_some_steps(updated(updates))
    assert found(UpdateSpike, records)[0] == (step, "info", "embedding.weight")
    (event,) = [e for e in merged(check_detector(UpdateSpike, records)) if e.step == step]
    assert event.observed == pytest.approx(0.8 * updates[step], rel=1e-5)
    assert event.limit < event.observed


@pytest.mark.parametrize("step", [47, 199, 200])
def test_a_second_moment_of_a_sentinel_that_lags_is_found_between_readings_of_all(step):
    ratios = [[1.0 + 0.01 * (at % 3), 1.0] for at in range(len(CALM))]
    ratios[step][0] = 5.0
    records = at_some_steps(updated(CALM, ratios))
    assert found(StaleSecondMoment, records)[0] == (step, "info", "embedding.weight")


def test_a_calm_stream_with_sentinels_has_no_event():
    records = at_some_steps(updated(CALM))
    assert found(UpdateSpike, records) == found(StaleSecondMoment, records) == []


def test_a_parameter_that_becomes_a_sentinel_is_no_jump():
    """The update of two parameters is larger than that of one."""
    records = at_some_steps(updated(CALM))
    two, ones = np.array([0, 1], np.float32), np.ones(2, np.float32)
    for step in range(150, 300):
        if records[step].sentinels is not None:
            norms = np.array([8e-4, 4e-3], np.float32)
            joined = SentinelStats(position=two, update_norm=norms, weight_norm=ones, rms_ratio=ones)
            records[step] = dataclasses.replace(records[step], sentinels=joined)
    assert [event for event in found(UpdateSpike, records) if event[0] % 10] == []


def test_an_update_far_above_those_before_it_is_found():
    updates = list(CALM)
    updates[200] *= 10
    assert found(UpdateSpike, updated(updates))[0] == (200, "info", "embedding.weight")


def test_a_fault_that_lasts_is_one_event_with_an_end():
    updates = [value * (10 if 200 <= step < 205 else 1) for step, value in enumerate(CALM)]
    events = UpdateSpike()
    raised = [event for record in updated(updates) for event in events.update(record)]
    assert [(event.step, event.until) for event in raised] == [(200, None), (200, 204)]


def test_a_schedule_of_the_rate_is_no_jump():
    rates = [0.1 if step < 150 else 1.0 for step in range(300)]
    updates = [value * rate / 0.1 for value, rate in zip(CALM, rates, strict=True)]
    assert found(UpdateSpike, updated(updates, rates=rates)) == []


@pytest.mark.parametrize("seed", range(5))
def test_calm_updates_raise_nothing(seed):
    updates = steady(2000, level=1e-3, spread=0.1, seed=seed)
    assert found(UpdateSpike, updated(updates)) == []


def test_a_new_level_is_believed_in_the_end():
    updates = [value * (1 if step < 150 else 5) for step, value in enumerate(steady(800, spread=0.05))]
    detector = UpdateSpike()
    raised = [event.step for record in updated(updates) for event in detector.update(record) if event.until is None]
    assert raised == [150]


@pytest.mark.parametrize("value", [None, 0.0, math.nan, math.inf])
def test_updates_that_are_not_known_are_left_out(value):
    records = updated(CALM)
    records[200] = dataclasses.replace(records[200], update_norm=value)
    assert found(UpdateSpike, records) == []


def with_momentum(gradients, momentum=0.9, clip=math.inf):
    """Records of SGD with momentum whose gradients all point along one direction, clipped at a norm."""
    buffer, updates, records = 0.0, [], []
    for gradient in gradients:
        buffer = momentum * buffer + min(gradient, clip)
        updates.append(0.1 * buffer)
    for record, gradient in zip(updated(updates), gradients, strict=True):
        coefficient = min(1.0, clip / gradient)
        records.append(dataclasses.replace(record, total_norm=gradient, clip_coef=coefficient))
    return records


def spiked(times, at=250):
    gradients = steady(400, spread=0.02, seed=3)
    return [value * (times if step == at else 1.0) for step, value in enumerate(gradients)]


@pytest.mark.parametrize(("times", "momentum"), [(100.0, 0.9), (1000.0, 0.9), (300.0, 0.98)])
def test_momentum_that_holds_a_spike_is_found_and_how_long_it_holds_it(times, momentum):
    """A part times * momentum**t of the spike is left, beside updates of 1 / (1 - momentum)."""
    (event,) = merged(check_detector(HeldSpike, with_momentum(spiked(times), momentum)))
    assert (event.step, event.severity) == (251, "info")
    expected = math.log(times * (1 - momentum)) / -math.log(momentum)
    assert event.until - 250 == pytest.approx(expected, abs=3)


def test_a_spike_that_was_clipped_never_reached_the_momentum():
    assert check_detector(HeldSpike, with_momentum(spiked(1000.0), clip=2.0)) == []


def test_a_small_spike_and_an_optimizer_without_momentum_hold_nothing():
    assert check_detector(HeldSpike, with_momentum(spiked(6.0))) == []
    assert check_detector(HeldSpike, with_momentum(spiked(1000.0), momentum=0.0)) == []


def test_an_update_that_is_large_for_another_reason_is_not_held():
    updates = [value * (10 if 200 <= step < 230 else 1) for step, value in enumerate(CALM)]
    assert check_detector(HeldSpike, updated(updates)) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_calm_training_holds_nothing(seed):
    assert check_detector(HeldSpike, with_momentum(steady(2000, spread=0.3, seed=seed))) == []


def test_gradients_that_outgrow_the_second_moment_of_a_matrix_are_found():
    ratios = [[1.0, 1.0] if step != 200 else [4.0, 1.0] for step in range(300)]
    assert found(StaleSecondMoment, updated(CALM, ratios))[0] == (200, "info", "embedding.weight")


def test_a_ratio_that_is_always_high_is_no_news():
    """Of rare tokens it is."""
    rng = np.random.default_rng(0)
    ratios = [[3.0 * math.exp(0.05 * rng.standard_normal()), 1.0] for _ in range(300)]
    assert found(StaleSecondMoment, updated(CALM, ratios)) == []


def test_a_bias_does_not_count():
    ratios = [[1.0, 1.0] if step != 200 else [1.0, 9.0] for step in range(300)]
    assert found(StaleSecondMoment, updated(CALM, ratios)) == []


def test_optimizers_without_a_second_moment_raise_nothing():
    records = [
        dataclasses.replace(record, updates=dataclasses.replace(record.updates, rms_ratio=None))
        for record in updated(CALM)
    ]
    assert found(StaleSecondMoment, records) == []
    assert found(StaleSecondMoment, stream(CALM)) == []


def test_updates_of_zero_are_a_warning_that_names_the_rate():
    records = updated([0.0] * 150, rates=[0.0] * 150)
    (event,) = check_detector(NothingMoves, records)
    assert (event.step, event.severity) == (99, "warning")
    assert event.message.endswith("at a learning rate of 0")


def test_a_warm_up_from_zero_is_no_warning():
    assert check_detector(NothingMoves, updated([0.0] * 50 + [1e-3] * 200)) == []


def sampled(shares, dtype):
    parameters = (ParameterInfo(name="w", shape=(100, 10), dtype=dtype), ParameterInfo(name="b", shape=(10,)))
    ones = np.ones(2, np.float32)
    return [
        dataclasses.replace(
            record,
            weights=WeightStats(weight_norm=ones, update_norm=ones, moved=np.array([share, 1.0], np.float32)),
        )
        for record, share in zip(stream([1.0] * len(shares), parameters=parameters), shares, strict=True)
    ]


def test_weights_of_low_precision_that_keep_their_entries_are_information():
    (event,) = check_detector(NothingMoves, sampled([0.5, 0.001, 0.002, 0.003, 0.001], "bfloat16"))
    assert (event.step, event.severity, event.observed) == (3, "info", pytest.approx(0.003))


@pytest.mark.parametrize(
    ("shares", "dtype"),
    [([0.001, 0.5] * 5, "bfloat16"), ([0.001] * 10, "float32"), ([math.nan] * 10, "bfloat16")],
)
def test_two_low_samples_float32_and_unknown_shares_are_no_news(shares, dtype):
    assert check_detector(NothingMoves, sampled(shares, dtype)) == []
