"""Every schema that was ever released is read, and the docs tell the newest."""

import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import BadArgument, StoreTooNew
from gradwatch.record import (
    MAGNITUDE_BINS,
    AccumulationStats,
    MagnitudeStats,
    SentinelStats,
    StepRecord,
    UpdateStats,
    WeightStats,
)
from gradwatch.store import FILE_NAME, SCHEMA, SCHEMA_VERSION, StoreWriter
from gradwatch.testing import steady, stream, write_run

from .batches import as_text, listing

GOLDEN = Path(__file__).parents[2] / "golden" / "stores"


def continued(folder, record):
    """The run after one more attempt of one step."""
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([record])
    writer.end_attempt("closed")
    return Run(folder)


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path):
    write_run(tmp_path, stream(steady(3)))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreTooNew, match=rf"schema {SCHEMA_VERSION + 1}; this version reads up to {SCHEMA_VERSION}"):
        Run(tmp_path)
    with pytest.raises(StoreTooNew, match="pip install -U gradwatch"):
        StoreWriter(tmp_path)


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda p: p.name)
def test_every_released_schema_is_read_for_ever(folder, tmp_path):
    before = listing(folder)
    run = Run(folder)
    steps = run.steps()
    assert len(steps) == 400
    assert math.isnan(steps.loc[350, "total_norm"])
    assert steps.loc[300, "total_norm"] == 50.0
    assert run.layers("norm").shape == (400, 2)
    assert [(e.step, e.kind) for e in run.events()] == [(300, "spike"), (350, "nonfinite")]
    assert run.summary().verdict == "critical"
    assert listing(folder) == before
    # and it can be continued
    shutil.copytree(folder, tmp_path / "copy")
    write_run(tmp_path / "copy", stream([1.0], first_step=400))
    assert len(Run(tmp_path / "copy").steps()) == 401


def test_a_store_of_schema_5_is_continued_with_updates_and_keeps_its_samples(tmp_path):
    """The checksums of a sample count more blobs since schema 6 than those of an older row."""
    shutil.copytree(GOLDEN / "schema-5", tmp_path / "copy")
    floats = np.array([1.0, math.nan], np.float32)
    more = StepRecord(
        step=400,
        attempt=1,
        update_norm=1.0,
        weight_norm=2.0,
        weights=WeightStats(weight_norm=floats, update_norm=floats, moved=floats),
        updates=UpdateStats(update_norm=floats, weight_norm=floats),
    )
    run = continued(tmp_path / "copy", more)
    assert len(run.layers("weight_norm")) == 9
    assert run.layers("moved").index.tolist() == run.updates("update_norm").index.tolist() == [400]
    assert as_text(list(run.records())[-1]) == as_text(more)
    assert run.steps()["update_ratio"].tolist()[-2:] == [pytest.approx(math.nan, nan_ok=True), 0.5]
    assert run.damaged_rows == 0


def test_a_store_without_updates_has_empty_frames_of_them():
    run = Run(GOLDEN / "schema-5")
    assert run.updates("rms_ratio").shape == run.layers("moved").shape == (0, 2)
    assert run.steps()["update_norm"].isna().all()
    assert run.damaged_rows == 0
    with pytest.raises(BadArgument, match="expected one of update_norm, weight_norm, rms_ratio"):
        run.updates("norm")


def test_a_store_of_schema_7_is_continued_with_accumulated_gradients(tmp_path):
    shutil.copytree(GOLDEN / "schema-7", tmp_path / "copy")
    counts, norms = np.array([1, 4], np.float32), np.array([0.5, math.nan], np.float32)
    more = StepRecord(step=400, attempt=1, accumulation=AccumulationStats(micro_batches=counts, norm=norms))
    run = continued(tmp_path / "copy", more)
    assert as_text(list(run.records())[-1]) == as_text(more)
    assert run.damaged_rows == 0


def test_a_store_of_schema_8_is_continued_with_magnitudes_of_entries(tmp_path):
    shutil.copytree(GOLDEN / "schema-8", tmp_path / "copy")
    before = Run(tmp_path / "copy")
    name = before.parameters()[0].name
    assert before.magnitudes(name).shape == (0, len(MAGNITUDE_BINS))
    counts = np.zeros((2, len(MAGNITUDE_BINS)))
    counts[0, 20], counts[1] = 7, math.nan
    more = StepRecord(step=400, attempt=1, magnitudes=MagnitudeStats.of(counts))
    run = continued(tmp_path / "copy", more)
    assert as_text(list(run.records())[-1]) == as_text(more)
    assert run.magnitudes(name).loc[400].tolist() == counts[0].tolist()
    assert run.damaged_rows == 0


def test_a_store_of_schema_9_is_continued_with_sentinels(tmp_path):
    shutil.copytree(GOLDEN / "schema-9", tmp_path / "copy")
    assert Run(tmp_path / "copy").sentinels().empty
    number = np.array([1.0], np.float32)
    more = StepRecord(
        step=400, attempt=1, sentinels=SentinelStats(position=number, update_norm=2 * number, weight_norm=4 * number)
    )
    run = continued(tmp_path / "copy", more)
    assert as_text(list(run.records())[-1]) == as_text(more)
    assert run.sentinels("update_ratio").loc[400].to_dict() == {run.parameters()[1].name: 0.5}
    assert run.damaged_rows == 0


def test_there_is_a_golden_store_of_this_schema():
    assert (GOLDEN / f"schema-{SCHEMA_VERSION}" / FILE_NAME).exists()


def test_the_schema_in_the_docs_is_the_schema():
    assert SCHEMA in (Path(__file__).parents[3] / "docs" / "store.md").read_text()
