"""The large tables of a store, whole and in parts, compared with the records that were written."""

import dataclasses
import sqlite3

import numpy as np
import pytest

from gradwatch.errors import StoreDamaged
from gradwatch.record import ParameterInfo
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.store import step_tables as module
from gradwatch.store.integrity import Integrity
from gradwatch.store.opening import Database
from gradwatch.store.step_tables import Part, StepTables
from gradwatch.testing import PARAMETERS, replaced, steady, stream

RECORDS = stream(replaced(steady(40), {7: float("nan"), 9: float("inf")}), losses=[None, *[1.0] * 39])
OTHERS = [dataclasses.replace(record, optimizer="1", step=record.step + 100) for record in stream(steady(10))]


@pytest.fixture
def folder(tmp_path):
    """Forty steps of one optimizer, and then ten of another."""
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})
    for name in "01":
        writer.add_parameters(name, PARAMETERS)
    writer.append(RECORDS)
    writer.append(OTHERS)
    writer.end_attempt("closed")
    return tmp_path


@pytest.fixture
def read(folder):
    opened = []

    def change(*statements):
        db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        for statement in statements:
            db.execute(statement)
        db.close()
        opened.append(Database(folder / FILE_NAME))
        integrity = Integrity(opened[-1].layout)
        return StepTables(opened[-1], integrity), integrity

    yield change
    for one in opened:
        one.close()


def norms(tables, part=None, length=2, optimizer="0"):
    return tables.table("layer", "norm", optimizer, length, part or Part())


def test_every_column_is_that_of_the_records(read):
    tables, integrity = read()
    columns = tables.step_columns()
    assert columns["id"] == list(range(1, 51))
    assert columns["step"] == [record.step for record in RECORDS + OTHERS]
    np.testing.assert_array_equal(
        np.array(columns["total_norm"], float), [record.total_norm for record in RECORDS + OTHERS]
    )
    assert columns["loss"][:2] == [None, 1.0]
    assert not {"nan", "crc", "row_crc"} & columns.keys()
    assert integrity.left_out == set()


def test_a_damaged_step_is_left_out_of_every_column(read):
    tables, integrity = read("update step set loss = 7 where id = 4")
    columns = tables.step_columns()
    assert columns["id"] == [number for number in range(1, 51) if number != 4]
    assert len(set(map(len, columns.values()))) == 1
    assert integrity.left_out == {("step", 4)}
    assert 4 not in tables.step_ids("0")[:, 0]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        pytest.param([], (40, 110, 0), id="whole"),
        pytest.param(["update step set loss = 7 where id = 40"], (39, 110, 0), id="the last is damaged"),
        pytest.param([f"update step set step = {2**52} where id = 3"], (40, 110, 0), id="a step that never was"),
        pytest.param(["delete from step"], (0, 0, 0), id="nothing is left"),
    ],
)
def test_the_next_step_follows_the_last_that_is_intact(read, statements, expected):
    tables, _ = read(*statements)
    assert tuple(tables.next_step(name) for name in ("0", "1", "nobody")) == expected


def test_a_table_has_the_blobs_of_one_optimizer(read):
    tables, _ = read()
    ids, values = norms(tables)
    assert ids.tolist() == [[number, number - 1] for number in range(1, 41)]
    np.testing.assert_array_equal(values, [record.layers.norm for record in RECORDS])
    ids, _ = norms(tables, optimizer="1")
    assert ids[0].tolist() == [41, 100]
    assert norms(tables, optimizer="nobody")[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(), range(1, 41)),
        (Part(one_of=7), range(7, 41, 7)),
        (Part(after=10, up_to=20), range(11, 21)),
        (Part(after=10, most=3), range(11, 14)),
        (Part(after=40), []),
        (Part(up_to=0), []),
        (Part(most=0), []),
        (Part(one_of=1000), []),
    ],
)
def test_a_part_of_a_table(read, part, expected):
    tables, integrity = read()
    ids, values = norms(tables, part)
    assert ids[:, 0].tolist() == list(expected)
    assert values.shape == (len(expected), 2)
    assert integrity.left_out == set()


def test_a_missing_row_is_counted_where_the_part_would_have_it(read):
    tables, integrity = read("delete from layer where id in (5, 30)")
    norms(tables, Part(up_to=20))
    assert integrity.left_out == {("layer", 5)}
    norms(tables, Part(most=3))
    assert integrity.left_out == {("layer", 5)}
    norms(tables)
    assert integrity.left_out == {("layer", 5), ("layer", 30)}


def test_a_shorter_row_is_filled_with_nan_and_a_longer_one_cut(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    infos = tuple(ParameterInfo(name=name, shape=(2,)) for name in "abc")
    writer.add_parameters("0", infos)
    writer.append(stream([1.0], parameters=infos[:1], shares=[1.0]))
    writer.append(stream([2.0], parameters=infos, shares=[0.5, 0.25, 0.125], first_step=1))
    writer.end_attempt("closed")
    db = Database(tmp_path / FILE_NAME)
    tables = StepTables(db, Integrity(db.layout))
    for length in (None, 3):
        np.testing.assert_array_equal(norms(tables, length=length)[1], [[1, np.nan, np.nan], [1, 0.5, 0.25]])
    np.testing.assert_array_equal(norms(tables, length=2)[1], [[1, np.nan], [1, 0.5]])
    db.close()


def test_rows_of_very_different_lengths_are_refused_before_they_fill_the_memory(read, monkeypatch):
    tables, _ = read()
    monkeypatch.setattr(module, "MAX_PADDING", 0)
    with pytest.raises(StoreDamaged, match="its rows are of very different lengths"):
        norms(tables, length=1000)


@pytest.mark.parametrize("chunk", [1, 3, 40, 1000])
@pytest.mark.parametrize("after", [0, 1, 39, 40, 1000])
def test_records_come_in_order_whatever_the_pieces(read, chunk, after):
    tables, _ = read()
    found = list(tables.records("0", PARAMETERS, after, chunk))
    assert repr(found) == repr(RECORDS[after:])


def test_a_record_that_is_damaged_is_passed_over_and_gaps_end_nothing(read):
    tables, integrity = read("update step set loss = 7 where id = 3", "delete from step where id between 10 and 30")
    found = [record.step for record in tables.records("0", PARAMETERS, 0, 2)]
    assert found == [0, 1, *range(3, 9), *range(30, 40)]
    assert ("step", 3) in integrity.left_out
