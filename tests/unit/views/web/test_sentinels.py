"""The sentinels' updates for the page, compared with the values they were written from."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.updates import sentinel_series
from gradwatch.record import ParameterInfo, SentinelStats, UpdateStats
from gradwatch.testing import stream, write_run
from gradwatch.views.web import sentinels
from gradwatch.views.web.view import RunView

EVERY, STEPS = 5, 203
INFOS = [ParameterInfo(name=name, shape=(2, 2)) for name in "abcd"]


def value(step, parameter):
    """What is written, by statistic."""
    ratio = 100.0 if (step, parameter) == (42, 3) else 1 + parameter + step / STEPS
    return np.float32(ratio), np.float32(0.01 * (parameter + 1)), np.float32(2 + parameter)


def record_of(record):
    """All updates at every fifth step, those of the sentinels at the others."""
    step = record.step
    is_full = step % EVERY == 0
    at = range(len(INFOS)) if is_full else [0, 3] if step < 100 else [0, 2, 3]  # one joins
    ratio, update, weight = (np.array(column, np.float32) for column in zip(*(value(step, p) for p in at), strict=True))
    if is_full:
        total = {"update_norm": float(np.linalg.norm(update)), "weight_norm": float(np.linalg.norm(weight))}
        return replace(record, updates=UpdateStats(update_norm=update, weight_norm=weight, rms_ratio=ratio), **total)
    few = SentinelStats(position=np.float32(at), update_norm=update, weight_norm=weight, rms_ratio=ratio)
    return replace(record, sentinels=few)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    records = [record_of(record) for record in stream([1.0] * STEPS, shares=[0.25] * 4, parameters=INFOS)]
    return write_run(tmp_path_factory.mktemp("few") / "run", records, optimizer_class="Adam")


def test_lines_of_the_sentinels_are_those_of_all_that_were_read_most_often(folder):
    run = Run(folder)
    steps = run.steps().index.to_numpy()
    found = sentinel_series(run, "0", steps)
    pairs = [[value(step, parameter) for parameter in (0, 3)] for step in range(STEPS)]
    ratio, update, weight = np.moveaxis(np.array(pairs, float), 2, 0)
    np.testing.assert_allclose(found["sentinel_rms_ratio"], ratio.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["sentinel_update_norm"], np.linalg.norm(update, axis=1), rtol=1e-6)
    expected = np.linalg.norm(update, axis=1) / np.linalg.norm(weight, axis=1)
    np.testing.assert_allclose(found["sentinel_update_ratio"], expected, rtol=1e-6)
    shown = RunView(folder).series(0, STEPS, 4000)
    assert np.nanmax(shown["sentinel_rms_ratio.high"]) == 100.0 > np.nanmax(shown["rms_ratio.high"])
    assert np.isnan(sentinel_series(run, "0", np.arange(60_000))["sentinel_rms_ratio"]).all(), "a long run"


def test_a_tile_has_each_step_or_the_largest_of_several(folder):
    view = RunView(folder)
    about = view.layers()
    assert (about["sentinels"], about["updates_every"]) == (list(sentinels.STATS), EVERY)
    assert view.overview()["updates_every"] == EVERY
    told, arrays = view.tile("sentinel_rms_ratio", 40, 60, 4000)
    assert told == {"stat": "sentinel_rms_ratio", "joined": 1, "positions": [0, 3]}
    assert arrays["first"].tolist() == arrays["last"].tolist() == list(range(40, 61))
    assert arrays["values"].tolist() == [[float(value(step, p)[0]) for p in (0, 3)] for step in range(40, 61)]

    told, arrays = view.tile("sentinel_rms_ratio", 0, STEPS, 20)
    assert told["positions"] == [0, 2, 3]
    assert told["joined"] > 1
    spans = list(zip(arrays["first"].tolist(), arrays["last"].tolist(), strict=True))
    assert [step for first, last in spans for step in range(int(first), int(last) + 1)] == list(range(STEPS))
    for (first, last), row in zip(spans, arrays["values"], strict=True):
        steps = np.arange(first, last + 1)
        assert row[2] == max(float(value(step, 3)[0]) for step in steps)
        third = [float(value(step, 2)[0]) for step in steps if step >= 100 or step % EVERY == 0]
        assert row[1] == max(third, default=-1.0)


def test_the_ratio_of_a_tile_is_of_the_update_that_was_computed(folder):
    told, arrays = RunView(folder).tile("sentinel_update_ratio", 7, 7, 100)
    expected = [value(7, p)[1] / value(7, p)[2] for p in (0, 3)]
    np.testing.assert_allclose(arrays["values"], [expected], rtol=1e-6)
    assert told["positions"] == [0, 3]


def test_a_zoom_of_too_many_steps_or_of_none_has_no_columns(folder, monkeypatch):
    view = RunView(folder)
    assert view.tile("sentinel_rms_ratio", 500, 600, 100)[1]["values"].shape == (0, 0)
    monkeypatch.setattr(sentinels, "MOST_STEPS", 50)
    told, arrays = view.tile("sentinel_rms_ratio", 0, STEPS, 100)
    assert (told["positions"], arrays["values"].shape, arrays["first"].shape) == ([], (0, 0), (0,))
    assert view.tile("sentinel_rms_ratio", 0, 49, 100)[1]["values"].shape == (50, 2)


def test_a_run_that_reads_all_updates_at_each_step_has_no_sentinels(tmp_path):
    records = []
    for record in stream([1.0] * 10):
        ones = np.ones(len(record.layers.norm), np.float32)
        update = UpdateStats(update_norm=ones, weight_norm=ones, rms_ratio=ones)
        records.append(replace(record, updates=update, update_norm=1.0, weight_norm=1.0))
    view = RunView(write_run(tmp_path / "run", records))
    assert (view.layers()["sentinels"], view.layers()["updates_every"]) == ([], 1)
    assert not [name for name in view.series(0, 9, 100) if name.startswith("sentinel")]
    assert math.isclose(view.series(0, 9, 100)["rms_ratio.high"][3], 1.0)


def test_sentinels_of_an_optimizer_without_rms_ratio_have_their_norms(tmp_path):
    """SGD has no second moment, so a large model that it trains has sentinels without a single ``rms_ratio``."""

    def of_sgd(record):
        record = record_of(record)
        if record.sentinels is None:
            return replace(record, updates=replace(record.updates, rms_ratio=None))
        return replace(record, sentinels=replace(record.sentinels, rms_ratio=None))

    records = [of_sgd(record) for record in stream([1.0] * 20, shares=[0.25] * 4, parameters=INFOS)]
    folder = write_run(tmp_path / "run", records, optimizer_class="SGD")
    found = sentinel_series(Run(folder), "0", np.arange(20))
    assert np.isnan(found["sentinel_rms_ratio"]).all()
    np.testing.assert_allclose(found["sentinel_update_norm"], np.hypot(0.01, 0.04), rtol=1e-6)
    assert RunView(folder).series(0, 19, 100)["sentinel_update_norm.high"].shape == (20,)
