"""A snapshot of detectors and the records after it raise what all records raise from the start."""

import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.detect import detectors_for
from gradwatch.detect import state as module
from gradwatch.detect.level import Window
from gradwatch.detect.restoring import load
from gradwatch.detect.state import dump, fingerprint, pieces
from gradwatch.record import CLIP_FAULTS, RANK_STATS, STATS, ParameterInfo, RankStats, WeightStats
from gradwatch.testing import replaced, steady, stream

PARAMETERS = (
    ParameterInfo(name="a.weight", shape=(4, 3)),
    ParameterInfo(name="a.bias", shape=(4,)),
    ParameterInfo(name="b.weight", shape=(2, 4)),
)


ODD_NORMS = (0.0, 1e-9, 30.0, 1e5, math.nan, math.inf)


def eventful(steps, seed):
    """Records with most of what detectors look for: spikes, NaN, zeros, rises, skips, faults, ranks, new parameters."""
    random = np.random.default_rng(seed)
    odd = {int(at): float(random.choice(ODD_NORMS)) for at in random.integers(0, steps, 12)}
    norms = np.array(replaced(steady(steps, seed=seed), odd))
    rise, joins = random.integers(0, steps, 2)
    norms[rise : rise + 150] *= random.choice([1e-5, 20.0])
    losses = [None if random.random() < 0.1 else float(random.lognormal()) for _ in range(steps)]
    shares = [float(random.choice([0.0, 0.5])), 0.3, 0.4]
    max_norm = random.choice([None, 1.0, 1e4])
    with np.errstate(invalid="ignore"):
        records = stream(norms.tolist(), parameters=PARAMETERS, shares=shares, losses=losses, max_norm=max_norm)
    return [_varied(record, random, 2 if at < joins else 3) for at, record in enumerate(records)]


def _varied(record, random, parameters):
    layers = record.layers
    columns = {name: getattr(layers, name)[:parameters] for name in STATS}
    if random.random() < 0.05:
        columns["zeros"] = None
    layers = dataclasses.replace(layers, parameters=PARAMETERS[:parameters], **columns)
    weights = record.weights
    if weights is not None:
        update = np.full(parameters, 0.9 * random.random(), np.float32)
        weights = WeightStats(weight_norm=np.ones(parameters, np.float32), update_norm=update)
    zeros = {name: np.zeros(4, np.float32) for name in RANK_STATS}
    ranks = {
        "norm": random.lognormal(0, 0.2, 4).astype(np.float32) * np.float32([1, 1, random.choice([1, 5]), 1]),
        "before_reduction": np.ones(4, np.float32),
        "differing": np.full(4, random.random() < 0.01, np.float32),
    }
    return dataclasses.replace(
        record,
        layers=None if random.random() < 0.02 else layers,
        weights=weights,
        ranks=RankStats(**zeros | ranks),
        skipped=bool(random.random() < 0.03),
        loss_scale=random.choice([None, 1024.0, 2.0]),
        clip_fault=str(random.choice(CLIP_FAULTS)) if random.random() < 0.01 else None,
        learning_rates=(float(random.choice([0.1, 0.1, 0.1, 0.3])),),
    )


def judged(detectors, records):
    return [event for record in records for detector in detectors for event in detector.update(record)]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 700), st.sampled_from(["SGD", "AdamW"]))
def test_snapshot_and_continue_is_replay_from_the_start(seed, at, optimizer):
    records = eventful(700, seed)
    whole, first, second = (detectors_for(optimizer, {"eps": 1e-8}) for _ in range(3))
    expected = judged(whole, records)
    before = judged(first, records[:at])
    load(second, dump(first))
    after = judged(second, records[at:])
    assert repr(before + after) == repr(expected)
    assert dump(second) == dump(whole)


def test_the_streams_raise_events_of_many_kinds():
    kinds = {event.kind for seed in range(8) for event in judged(detectors_for("SGD"), eventful(700, seed))}
    assert {"nonfinite", "spike", "explosion", "dead", "loss-scale", "desync", "ineffective-clipping"} <= kinds


def test_a_snapshot_does_not_change_with_its_detectors():
    detectors = detectors_for()
    judged(detectors, eventful(300, 1)[:150])
    before = dump(detectors)
    judged(detectors, eventful(300, 1)[150:])
    restored = detectors_for()
    load(restored, before)
    assert dump(restored) == before != dump(detectors)


def test_fresh_detectors_have_a_state_too():
    restored = detectors_for()
    load(restored, dump(detectors_for()))
    assert repr(judged(restored, eventful(300, 2))) == repr(judged(detectors_for(), eventful(300, 2)))


def test_the_pieces_of_a_state_are_no_copies_of_its_arrays():
    """Those of a thousand parameters have megabytes, in a thread beside a training that may need them."""
    window = Window(size=3)
    window.rows = np.arange(2.0**18).reshape(2, -1)
    window.columns = np.ones((3, 5)).T
    tracemalloc.start()
    try:
        found = pieces([window])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.1 * window.rows.nbytes
    assert b"".join(found) == dump([window])
    assert window.rows.tobytes() + window.columns.tobytes() in b"".join(found)


def test_a_state_is_a_line_of_json_and_bytes():
    detectors = detectors_for()
    judged(detectors, eventful(300, 3))
    head, _, data = dump(detectors).partition(b"\n")
    assert [name for name, _ in json.loads(head)["detectors"]] == [type(one).__name__ for one in detectors]
    assert len(data) > 1000


def test_what_is_not_plain_data_has_no_state():
    class Odd:
        def __init__(self, value):
            self.value = value

    for value in (object(), print, np.array(["text"]), {1: open}, b"bytes"):
        with pytest.raises(TypeError, match="plain data"):
            dump([Odd(value)])


def test_the_fingerprint_changes_with_the_code(tmp_path, monkeypatch):
    (tmp_path / "state.py").write_text("a = 1\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "state.py"))
    found = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (tmp_path / "state.py").write_text(text)
        fingerprint.cache_clear()
        found.append(fingerprint())
    fingerprint.cache_clear()
    assert found[0] == found[2] != found[1]
