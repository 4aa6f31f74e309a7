"""The tables of blobs, whole and in parts, compared with the records that were written."""

import numpy as np
import pytest

from gradwatch.errors import StoreDamaged
from gradwatch.record import ParameterInfo
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.store import blob_tables as module
from gradwatch.store.blob_tables import BlobTables, Part
from gradwatch.store.integrity import Integrity
from gradwatch.store.opening import Database
from gradwatch.store.step_table import StepTable
from gradwatch.testing import stream

from .two_optimizers import RECORDS


@pytest.fixture
def read(opened):
    def change(*statements):
        db, integrity = opened(*statements)
        return BlobTables(db, integrity, StepTable(db, integrity)), integrity

    return change


def norms(tables, part=None, length=2, optimizer="0"):
    return tables.table("layer", "norm", optimizer, length, part or Part())


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
    tables = BlobTables(db, Integrity(db.layout), StepTable(db, Integrity(db.layout)))
    for length in (None, 3):
        np.testing.assert_array_equal(norms(tables, length=length)[1], [[1, np.nan, np.nan], [1, 0.5, 0.25]])
    np.testing.assert_array_equal(norms(tables, length=2)[1], [[1, np.nan], [1, 0.5]])
    db.close()


def test_rows_of_very_different_lengths_are_refused_before_they_fill_the_memory(read, monkeypatch):
    tables, _ = read()
    monkeypatch.setattr(module, "MAX_PADDING", 0)
    with pytest.raises(StoreDamaged, match="its rows are of very different lengths"):
        norms(tables, length=1000)


@pytest.mark.parametrize("most", [0, 1, 10**6])
def test_a_sparse_sample_is_the_same_looked_up_or_read_through(read, monkeypatch, most):
    monkeypatch.setattr(module, "SPARSE", 3)
    monkeypatch.setattr(module, "LOOKED_UP", 2)
    monkeypatch.setattr(module, "MOST_LOOKED_UP", most)
    tables, integrity = read("delete from layer where id = 9")
    ids, values = norms(tables, Part(one_of=3, after=4))
    assert ids[:, 0].tolist() == [6, *range(12, 41, 3)]
    np.testing.assert_array_equal(values, [RECORDS[number - 1].layers.norm for number in ids[:, 0]])
    assert integrity.left_out == {("layer", 9)}


def test_a_statistic_that_was_not_recorded_has_no_rows(read):
    tables, _ = read()
    for table, stat in (("rank", "norm"), ("optimizer_update", "update_norm")):
        ids, values = tables.table(table, stat, "0", None, Part())
        assert ids.shape == (0, 2)
        assert len(values) == 0
