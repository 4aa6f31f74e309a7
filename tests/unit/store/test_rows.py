"""Rows as SQLite keeps them, and the checksums that belong to them."""

import json
import math
import sqlite3
import zlib

import numpy as np
import pytest

from gradwatch.record import Event, LayerStats, ParameterInfo, StepRecord
from gradwatch.store.rows import STEP_ROW_COLUMNS, event_row, parameter_rows, step_rows, text, with_checksums
from gradwatch.store.schema import EVENT_COLUMNS

INFOS = (ParameterInfo(name="a", shape=(2, 3)), ParameterInfo(name="b", shape=()))


def layers(*norms):
    return LayerStats(parameters=INFOS, norm=np.array(norms, np.float32), nonfinite=np.zeros(len(norms), np.float32))


def as_dicts(rows, table="step"):
    return [dict(zip(STEP_ROW_COLUMNS[table], row, strict=True)) for row in rows[table]]


def test_no_records_are_no_rows():
    assert set(map(len, step_rows([], 1).values())) == {0}


def test_ids_are_consecutive_and_a_blob_has_the_id_of_its_step():
    records = [StepRecord(step=40 + i, total_norm=1.0, layers=layers(1, 2) if i % 2 else None) for i in range(4)]
    rows = step_rows(records, 7)
    assert [row["id"] for row in as_dicts(rows)] == [7, 8, 9, 10]
    assert [row["step"] for row in as_dicts(rows)] == [40, 41, 42, 43]
    assert [row["id"] for row in as_dicts(rows, "layer")] == [8, 10]
    assert [row["parts"] for row in as_dicts(rows)] == [0, 1, 0, 1]
    assert rows["weight"] == rows["rank"] == []


def test_a_blob_holds_little_endian_float32():
    rows = step_rows([StepRecord(step=0, total_norm=1.0, layers=layers(1.5, math.nan))], 1)
    (row,) = as_dicts(rows, "layer")
    assert row["norm"] == np.array([1.5, math.nan], "<f4").tobytes()
    assert row["abs_max"] is None


@pytest.mark.parametrize(
    ("rates", "one", "all_of_them"),
    [((), None, None), ((0.1,), 0.1, None), ((0.1, 0.2), 0.1, "[0.1, 0.2]"), ((0.0, 0.0), 0.0, "[0.0, 0.0]")],
)
def test_learning_rates_are_one_number_or_all(rates, one, all_of_them):
    (row,) = as_dicts(step_rows([StepRecord(step=0, total_norm=1.0, learning_rates=rates)], 1))
    assert (row["learning_rate"], row["learning_rates"]) == (one, all_of_them)


def test_what_is_nan_is_named_for_sqlite_keeps_it_as_null():
    (row,) = as_dicts(step_rows([StepRecord(step=0, total_norm=math.nan, loss=math.nan, max_norm=math.inf)], 1))
    assert set(row["nan"].split(",")) >= {"total_norm", "loss"}
    assert "max_norm" not in row["nan"]
    with sqlite3.connect(":memory:") as db:
        assert db.execute("select ?", (row["total_norm"],)).fetchone() == (None,)
    (row,) = as_dicts(step_rows([StepRecord(step=0, total_norm=1.0, loss=None)], 1))
    assert row["nan"] is None


def test_the_checksum_of_a_small_row_is_that_of_its_json():
    values = ("model", "Net")
    row = with_checksums("meta", values)
    crc = zlib.crc32(json.dumps(values, separators=(",", ":")).encode())
    assert row[:3] == (*values, crc)
    assert with_checksums("attempt", values)[3] != row[3] != with_checksums("meta", values, number=1)[3]


def test_an_event_is_a_row():
    event = Event(step=3, kind="spike", severity="warning", message="m", parameter="w", observed=math.nan, limit=-0.0)
    number, *values, crc, bound = event_row(event, 5)
    row = dict(zip((*[name for name in EVENT_COLUMNS if name != "rank"], "rank"), values, strict=True))
    assert number == 5
    assert (row["step"], row["kind"], row["parameter"], row["nan"], row["rank"]) == (3, "spike", "w", "observed", None)
    assert math.copysign(1, row["limit"]) == 1
    assert type(crc) is type(bound) is int


def test_an_unknown_rank_is_no_part_of_an_events_checksum():
    event = Event(step=3, kind="spike", severity="warning", message="m")
    plain = event_row(event, 1)
    ranked = event_row(Event(step=3, kind="spike", severity="warning", message="m", rank=0), 1)
    assert plain[-2] == zlib.crc32(json.dumps(plain[1:-3], separators=(",", ":")).encode())
    assert ranked[-2] == zlib.crc32(json.dumps(ranked[1:-2], separators=(",", ":")).encode())


@pytest.mark.parametrize("name", ["", "é", "\udc80", "a\x00b", "😀" * 1000])
def test_every_name_can_be_kept_as_utf8(name):
    kept = text(name)
    assert kept.encode() == name.encode("utf-8", "backslashreplace")
    ((_, position, stored, shape, dtype, *_),) = parameter_rows("0", [ParameterInfo(name=name, shape=(2,))], 4)
    assert (position, stored, shape, dtype) == (4, kept, "[2]", "float32")


def test_parameters_are_numbered_from_the_first():
    assert [row[:3] for row in parameter_rows("o", INFOS, 3)] == [("o", 3, "a"), ("o", 4, "b")]
    assert parameter_rows("o", (), 3) == []
