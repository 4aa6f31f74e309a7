"""Helpers for tests of code that builds on gradwatch: synthetic streams, runs, the contract of detectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gradwatch.detect import Detector, detectors_for
from gradwatch.record import Event, LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.store import StoreWriter
from gradwatch.text import number

PARAMETERS = (ParameterInfo(name="rnn.weight", shape=(3, 3)), ParameterInfo(name="out.weight", shape=(1, 3)))


def steady(steps: int, level: float = 1.0, spread: float = 0.1, seed: int = 0) -> list[float]:
    """Return the norms of a calm training: lognormal about a level.

    >>> len(steady(10)), 0.5 < min(steady(1000)) < max(steady(1000)) < 2
    (10, True)
    """
    rng = np.random.default_rng(seed)
    return [float(value) for value in level * np.exp(spread * rng.standard_normal(steps))]


def replaced(norms: Sequence[float], changes: dict[int, float]) -> list[float]:
    """Return the same norms with other values at some steps.

    >>> replaced([1.0, 1.0], {1: 9.0})
    [1.0, 9.0]
    """
    return [changes.get(step, norm) for step, norm in enumerate(norms)]


def stream(
    norms: Sequence[float],
    *,
    shares: Sequence[float] = (0.8, 0.6),
    parameters: Sequence[ParameterInfo] = PARAMETERS,
    losses: Sequence[float | None] | None = None,
    max_norm: float | None = None,
    attempt: int = 0,
    first_step: int = 0,
) -> list[StepRecord]:
    """Return records with the given total norms; the norm of each parameter is a fixed fraction of it.

    Args:
        norms: the total norm of each step.
        shares: the fraction of it that each parameter has.
        parameters: the parameters, as many as ``shares``.
        losses: the loss of each step, or None.
        max_norm: the threshold of norm clipping, or None.
        attempt: the number of the attempt.
        first_step: the number of the first step.

    >>> record = stream([5.0])[0]
    >>> record.layers.norm.tolist()
    [4.0, 3.0]
    """
    return [
        _record(
            first_step + i, norm, shares, tuple(parameters), None if losses is None else losses[i], max_norm, attempt
        )
        for i, norm in enumerate(norms)
    ]


def _record(
    step: int,
    norm: float,
    shares: Sequence[float],
    parameters: tuple[ParameterInfo, ...],
    loss: float | None,
    max_norm: float | None,
    attempt: int,
) -> StepRecord:
    with np.errstate(over="ignore"):
        column = np.array([norm * share for share in shares]).astype(np.float32)
    bad = 0 if math.isfinite(norm) else len(shares)
    return StepRecord(
        step=step,
        attempt=attempt,
        wall_time=1.7e9 + 0.1 * step,
        total_norm=norm,
        max_norm=max_norm,
        clip_coef=1.0 if max_norm is None else min(max_norm / (norm + 1e-6), 1.0),
        nonfinite=bad,
        loss=loss,
        learning_rates=(0.1,),
        layers=LayerStats(
            parameters=parameters,
            norm=column,
            abs_max=column,
            nonfinite=np.full(len(shares), float(bool(bad)), np.float32),
            zeros=np.zeros(len(shares), np.float32),
        ),
        weights=None
        if step % 50
        else WeightStats(
            weight_norm=np.ones(len(shares), np.float32), update_norm=np.full(len(shares), 1e-3, np.float32)
        ),
    )


def write_run(
    folder: Path,
    records: Sequence[StepRecord],
    optimizer_class: str = "SGD",
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Write a run of these records, with the events that the detectors would have raised live.

    Args:
        folder: the run's folder.
        records: of one optimizer; records of further attempts follow those of the first.
        optimizer_class: the name of its class.
        settings: its settings; a learning rate of 0.1 by default.
    """
    own_settings = dict(settings or {"lr": 0.1})
    detectors = detectors_for(optimizer_class, own_settings)
    for attempt in sorted({record.attempt for record in records}) or [0]:
        own = [record for record in records if record.attempt == attempt]
        events = [event for record in own for detector in detectors for event in detector.update(record)]
        _write_attempt(folder, own, events, (optimizer_class, own_settings))
    return folder


def _write_attempt(
    folder: Path, records: Sequence[StepRecord], events: Sequence[Event], optimizer: tuple[str, dict[str, object]]
) -> None:
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Synthetic", "moment": "before clipping"}, {"0": optimizer})
    if records and records[0].layers is not None:
        writer.add_parameters("0", records[0].layers.parameters)
    writer.append(records, events)
    writer.end_attempt("closed")


def check_detector(make: Callable[[], Detector], records: Sequence[StepRecord]) -> list[Event]:
    """Assert the contract of detectors on a stream, and return the events that it raises.

    A detector is a fold: a fresh one finds the same events. It does not look ahead: the events of the first
    half of a stream are the beginning of the events of all of it. It does not depend on scale: all norms
    times 2^26 or 2^-26 (about 1e8, and exact in floating point) raise the same events at the same steps.

    Raises:
        AssertionError: the detector breaks one of these.
    """
    events = _fold(make, records)
    again = _fold(make, records)
    assert repr(again) == repr(events), "a fresh detector finds other events in the same records"
    half = _fold(make, records[: len(records) // 2])
    assert repr(half) == repr(events[: len(half)]), "events depend on later records"
    where = [(event.step, event.kind, event.severity, event.parameter) for event in events]
    for scale in (2.0**-26, 2.0**26):
        scaled = _fold(make, [_scaled(record, scale) for record in records])
        found = [(event.step, event.kind, event.severity, event.parameter) for event in scaled]
        assert found == where, f"norms times {number(scale, 6)} raise other events"
    return events


def _fold(make: Callable[[], Detector], records: Sequence[StepRecord]) -> list[Event]:
    detector = make()
    return [event for record in records for event in detector.update(record)]


def _scaled(record: StepRecord, scale: float) -> StepRecord:
    layers = record.layers
    if layers is not None:
        with np.errstate(over="ignore"):
            abs_max = None if layers.abs_max is None else layers.abs_max * np.float32(scale)
            layers = dataclasses.replace(layers, norm=layers.norm * np.float32(scale), abs_max=abs_max)
    return dataclasses.replace(record, total_norm=record.total_norm * scale, layers=layers)
