"""Batches of records for the tests of a store."""

import math

import numpy as np
from hypothesis import strategies as st

from gradwatch.record import (
    ACCUMULATION_STATS,
    MAGNITUDE_BINS,
    MAGNITUDE_STATS,
    ORIGINS,
    SAMPLED_STATS,
    SENTINEL_STATS,
    STATS,
    UPDATE_STATS,
    WEIGHT_STATS,
    AccumulationStats,
    Event,
    LayerStats,
    MagnitudeStats,
    ParameterInfo,
    SentinelStats,
    StepRecord,
    UpdateStats,
    WeightStats,
)

# SQLite does not keep the sign of zero
anything = st.floats(allow_nan=True, allow_infinity=True).map(lambda value: value + 0.0)

maybe = st.none() | anything

float32s = st.lists(st.floats(width=32, allow_nan=True), min_size=2, max_size=2).map(lambda v: np.array(v, np.float32))

counts = st.lists(st.integers(0, 2**24) | st.just(math.nan), min_size=2, max_size=2).map(
    lambda v: np.array(v, np.float32)
)

infos = tuple(ParameterInfo(name=name, shape=(2, 3)) for name in ("a.weight", "b'; drop table step; --"))

layers = st.builds(
    lambda norm, abs_max, nonfinite, zeros: LayerStats(
        parameters=infos, norm=norm, abs_max=abs_max, nonfinite=nonfinite, zeros=zeros
    ),
    float32s,
    st.none() | float32s,
    counts,
    counts,
)

histograms = st.lists(
    st.none() | st.dictionaries(st.integers(0, len(MAGNITUDE_BINS) - 1), st.integers(1, 65535), max_size=5),
    min_size=2,
    max_size=2,
).map(lambda rows: MagnitudeStats.of(np.stack([_histogram(row) for row in rows])))


def _histogram(counts):
    row = np.full(len(MAGNITUDE_BINS), math.nan if counts is None else 0.0)
    for at, count in (counts or {}).items():
        row[at] = count
    return row


records = st.builds(
    StepRecord,
    step=st.integers(0, 2**40),
    wall_time=st.floats(0, 2e9),
    total_norm=anything,
    max_norm=maybe,
    norm_type=maybe,
    clip_value=maybe,
    clip_coef=anything,
    cut_entries=st.none() | st.integers(0, 2**40),
    nonfinite=st.integers(0, 2**40),
    loss=maybe,
    learning_rates=st.lists(st.floats(0, 10), max_size=3).map(tuple),
    loss_scale=maybe,
    skipped=st.booleans(),
    layers=st.none() | layers,
    update_norm=maybe,
    weight_norm=maybe,
    weights=st.none()
    | st.builds(
        WeightStats,
        weight_norm=float32s,
        update_norm=float32s,
        moved=st.none() | float32s,
        momentum_cosine=st.none() | float32s,
        weight_cosine=st.none() | float32s,
    ),
    updates=st.none()
    | st.builds(
        UpdateStats,
        update_norm=float32s,
        weight_norm=float32s,
        rms_ratio=st.none() | float32s,
        second_moment_norm=st.none() | float32s,
    ),
    accumulation=st.none() | st.builds(AccumulationStats, micro_batches=counts, norm=float32s),
    magnitudes=st.none() | histograms,
    sentinels=st.none()
    | st.builds(
        SentinelStats,
        position=st.just(np.array([0, 1], np.float32)),
        update_norm=float32s,
        weight_norm=float32s,
        rms_ratio=st.none() | float32s,
        second_moment_norm=st.none() | float32s,
    ),
)

events = st.builds(
    Event,
    step=st.integers(0, 2**40),
    kind=st.text(),
    severity=st.sampled_from(["info", "warning", "critical"]),
    message=st.text(),
    parameter=st.none() | st.text(),
    observed=maybe,
    limit=maybe,
    until=st.none() | st.integers(0, 2**40),
    origin=st.none() | st.sampled_from(ORIGINS),
)


def as_text(record):
    """Every value, arrays too, so that NaN equals NaN and nothing is rounded."""
    names = {"layers": STATS, "weights": (*WEIGHT_STATS, *SAMPLED_STATS), "updates": UPDATE_STATS}
    names |= {"accumulation": ACCUMULATION_STATS, "magnitudes": MAGNITUDE_STATS, "sentinels": SENTINEL_STATS}
    parts = [(getattr(record, field), stats) for field, stats in names.items()]
    values = [getattr(part, stat) for part, stats in parts if part is not None for stat in stats]
    return repr(record), [None if value is None else value.tobytes() for value in values]


def listing(folder):
    return sorted((p.name, p.stat().st_size) for p in folder.iterdir())
