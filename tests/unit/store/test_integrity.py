"""Rows that are intact, and the count of those that are not."""

import json
import math

import numpy as np
import pytest

from gradwatch.record import STATS, Event, StepRecord
from gradwatch.store.checksums import blobs_crc, row_crc
from gradwatch.store.integrity import Integrity, first_time, is_blob
from gradwatch.store.limits import MAX_MISSING
from gradwatch.store.rows import STEP_ROW_COLUMNS, event_row, step_rows, with_checksums
from gradwatch.store.schema import BLOBS, CHECKSUMS, CRC_FROM, CURRENT, ROW_COUNTS, ROW_CRC_FROM, STEP_COLUMNS, Layout
from gradwatch.testing import steady, stream

WITHOUT_CRC = Layout(version=3, has_row_crc=False)


def meta(**facts):
    return [with_checksums("meta", pair) for pair in facts.items()]


# -------------------------------------------------------------------------------------- small tables


def test_intact_rows_are_read():
    integrity = Integrity(CURRENT)
    assert integrity.read_meta(meta(model="Net", total_steps="7")) == {"model": "Net", "total_steps": "7"}
    assert integrity.left_out == set()


KEY, NET, CRC, BOUND = with_checksums("meta", ("model", "Net"))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((KEY, "Set", CRC, BOUND), id="another value"),
        pytest.param((KEY, NET, None, None), id="no checksum"),
        pytest.param((KEY, NET, CRC, 7), id="not bound"),
        pytest.param(with_checksums("optimizer", (KEY, NET)), id="of another table"),
        pytest.param((KEY, NET, "x", "y"), id="texts as checksums"),
        pytest.param((b"model", NET, CRC, BOUND), id="bytes"),
        pytest.param(with_checksums("meta", ("total_steps", "many")), id="no number where one belongs"),
    ],
)
def test_a_row_that_is_not_intact_is_left_out_and_counted_once(row):
    integrity = Integrity(CURRENT)
    rows = [*meta(author="me"), row]
    for _ in range(2):
        assert integrity.read_meta(rows) == {"author": "me"}
    assert integrity.left_out == {("meta", row[0])}


def test_a_row_that_is_there_twice_counts_as_damaged():
    integrity = Integrity(CURRENT)
    rows = [with_checksums("optimizer", ("0", "SGD", "{}"))] * 2
    assert list(integrity.intact("optimizer", rows)) == [["0", "SGD", "{}"]]
    assert integrity.left_out == {("optimizer", "0")}


def test_before_schema_4_rows_have_no_checksum():
    integrity = Integrity(WITHOUT_CRC)
    assert list(integrity.intact("meta", [("model", "Net", None, None)])) == [["model", "Net"]]
    assert integrity.left_out == set()


def test_an_attempt_is_bound_to_its_number():
    integrity = Integrity(CURRENT)
    values = (1, 0, 1.7e9, None, None, 5, "h", None, 0)
    right, wrong = with_checksums("attempt", values, number=1), with_checksums("attempt", values, number=2)
    assert list(integrity.intact("attempt", [right])) == [list(values)]
    assert list(integrity.intact("attempt", [wrong])) == []


def test_lost_rows_are_those_that_meta_tells_of():
    integrity = Integrity(CURRENT)
    integrity.read_meta(meta(**{ROW_COUNTS: json.dumps({"meta": 4, "event": 3})}))
    assert (integrity.left_out, integrity.missing) == (set(), {"meta": 3})
    assert (integrity.count("event"), integrity.count("nothing")) == (3, 0)


@pytest.mark.parametrize("counts", ["", "[]", "{", '{"event": -1}', '{"event": "3"}', '{"event": 1e99}'])
def test_counts_that_make_no_sense_are_not_believed(counts):
    integrity = Integrity(CURRENT)
    integrity.read_meta(meta(**{ROW_COUNTS: counts}))
    assert integrity.count("event") == 0
    assert integrity.missing == {"meta": 0}


def test_no_more_rows_are_counted_than_can_be_missing():
    integrity = Integrity(CURRENT)
    integrity.read_meta(meta(**{ROW_COUNTS: json.dumps({"event": 2**52})}))
    integrity.expect("event", 0)
    assert integrity.missing["event"] == MAX_MISSING


# ------------------------------------------------------------------------------------------- events


def events(*numbers):
    return [event_row(Event(step=n, kind="spike", severity="info", message="m"), n) for n in numbers]


def test_events_are_read_by_id_and_gaps_are_counted():
    integrity = Integrity(CURRENT)
    assert list(integrity.intact_events(events(1, 2, 5))) == [1, 2, 5]
    assert (integrity.left_out, integrity.missing) == (set(), {"event": 2})


def test_a_changed_event_is_left_out():
    integrity = Integrity(CURRENT)
    rows = events(1, 2)
    rows[0] = (1, 99, *rows[0][2:])
    rows.append((2, *events(7)[0][1:]))
    assert list(integrity.intact_events(rows)) == [2]
    assert integrity.left_out == {("event", 1), ("event", 2)}


# -------------------------------------------------------------------------------------------- steps


def steps(count=6):
    rows = step_rows(stream(steady(count)), 1)
    names = STEP_ROW_COLUMNS["step"]
    return {name: [row[names.index(name)] for row in rows["step"]] for name in names}


def test_steps_as_they_were_written_are_intact():
    integrity = Integrity(CURRENT)
    assert integrity.intact_steps(steps(), 6).tolist() == [True] * 6
    assert integrity.left_out == set()


def test_no_steps_are_intact():
    integrity = Integrity(CURRENT)
    assert integrity.intact_steps({name: [] for name in ("id", *STEP_COLUMNS, *CHECKSUMS)}, 0).tolist() == []


@pytest.mark.parametrize("name", [*STEP_COLUMNS, *CHECKSUMS])
def test_a_step_with_another_value_is_left_out_alone_and_among_others(name):
    columns = steps()
    before = columns[name][2]
    columns[name][2] = {float: 7.25, int: 1 if before != 1 else 0, str: "x", type(None): 0.5}[type(before)]
    integrity = Integrity(CURRENT)
    assert integrity.intact_steps(columns, 0).tolist() == [True, True, False, True, True, True]
    assert integrity.left_out == {("step", 3)}
    alone = Integrity(CURRENT)
    assert [alone.is_intact_step({n: c[at] for n, c in columns.items()}) for at in (1, 2)] == [True, False]


def test_lost_steps_are_counted_between_and_at_the_end():
    columns = {name: [column[at] for at in (0, 3)] for name, column in steps().items()}
    integrity = Integrity(CURRENT)
    assert integrity.intact_steps(columns, 6).tolist() == [True, True]
    assert (integrity.left_out, integrity.missing) == (set(), {"step": 4})


def test_a_step_that_is_there_twice_counts_once():
    columns = {name: [column[at] for at in (0, 1, 1)] for name, column in steps().items()}
    integrity = Integrity(CURRENT)
    assert integrity.intact_steps(columns, 0).tolist() == [True, True, False]


def test_steps_from_before_a_store_had_checksums_are_believed_and_no_later_ones():
    columns = steps()
    for name in CHECKSUMS:
        columns[name] = [None] * 6
    integrity = Integrity(CURRENT)
    integrity.read_meta(meta(**{CRC_FROM: "4", ROW_CRC_FROM: "4"}))
    assert integrity.intact_steps(columns, 0).tolist() == [True] * 3 + [False] * 3


# -------------------------------------------------------------------------------------------- blobs


def blobs(count=4, stat="norm"):
    at = STATS.index(stat)
    columns = [[], [], [], [], []]
    for number in range(1, count + 1):
        values = [np.full(2, number, "<f4").tobytes()] * len(BLOBS["layer"])
        crc = blobs_crc(number, number - 1, values)
        for column, value in zip(
            columns, (number, number - 1, values[at], crc, row_crc("layer", number, crc)), strict=True
        ):
            column.append(value)
    return columns


def test_blobs_as_they_were_written_are_intact():
    integrity = Integrity(CURRENT)
    assert integrity.intact_blobs("layer", "norm", blobs()).all()
    assert integrity.intact_blobs("layer", "norm", [[], [], [], [], []]).tolist() == []
    assert integrity.left_out == set()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param(2, np.full(2, 9, "<f4").tobytes(), id="another value"),
        pytest.param(2, b"123", id="no whole float32"),
        pytest.param(2, "text", id="a text"),
        pytest.param(1, 7, id="of another step"),
        pytest.param(3, b"", id="a checksum too short"),
        pytest.param(3, None, id="no checksum"),
        pytest.param(4, 1, id="bound elsewhere"),
        pytest.param(4, None, id="not bound"),
    ],
)
def test_a_blob_that_is_not_intact_is_left_out(column, value):
    columns = blobs()
    columns[column][2] = value
    integrity = Integrity(CURRENT)
    assert integrity.intact_blobs("layer", "norm", columns).tolist() == [True, True, False, True]
    assert integrity.left_out == {("layer", 3)}


def test_a_step_with_its_blobs_is_intact_and_one_that_lacks_them_is_counted():
    rows = step_rows(stream(steady(1)), 1)
    row = dict(zip(STEP_ROW_COLUMNS["step"], rows["step"][0], strict=True))
    for table in BLOBS:
        names = STEP_ROW_COLUMNS[table][1:]
        values = rows[table][0][1:] if rows[table] else [None] * len(names)
        row |= {f"{table}.{name}": value for name, value in zip(names, values, strict=True)}
    integrity = Integrity(CURRENT)
    assert integrity.is_intact(row)
    assert integrity.left_out == set()
    gone = row | {f"layer.{name}": None for name in STEP_ROW_COLUMNS["layer"][1:]}
    assert integrity.is_intact(gone), "the step itself is"
    assert integrity.left_out == {("layer", 1)}
    assert not Integrity(CURRENT).is_intact(row | {"layer.norm": b"\0\0\0\0"})


def test_what_a_blob_is():
    assert [is_blob(value) for value in (b"", b"1234", b"123", "1234", None, bytearray(4))] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_the_first_of_each_id():
    assert first_time([]).tolist() == []
    assert first_time([1, 2, 3]).all()
    assert first_time([1, 1, 2, 1]).tolist() == [True, False, True, False]


def test_a_record_alone_is_a_step_too():
    """SQLite keeps a NaN as null."""
    (row,) = step_rows([StepRecord(step=0, total_norm=float("nan"))], 1)["step"]
    kept = [None if isinstance(value, float) and math.isnan(value) else value for value in row]
    assert Integrity(CURRENT).is_intact_step(dict(zip(STEP_ROW_COLUMNS["step"], kept, strict=True)))
