"""Streams of records with planted faults, and what detectors find in them."""

import dataclasses
import math

import numpy as np

from gradwatch.record import LayerStats, ParameterInfo, StepRecord, merged
from gradwatch.testing import replaced, steady, stream

NAN = math.nan

INF = math.inf


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


def layered(step, norms, nonfinite, total=None, **more):
    parameters = tuple(ParameterInfo(name=f"layer{i}", shape=(2, 2)) for i in range(len(norms)))
    stats = LayerStats(
        parameters=parameters, norm=np.array(norms, np.float32), nonfinite=np.array(nonfinite, np.float32)
    )
    total = total if total is not None else (NAN if any(n > 0 for n in nonfinite) else float(np.linalg.norm(norms)))
    return StepRecord(step=step, total_norm=total, nonfinite=int(np.nansum(nonfinite)), layers=stats, **more)


def backed_off(records, steps):
    return [
        dataclasses.replace(r, skipped=r.step in steps, loss_scale=2.0**16, total_norm=INF if r.step in steps else 1.0)
        for r in records
    ]


def lossy(norms, losses, **more):
    return stream(norms, losses=losses, **more)


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
