"""Table step by column, compared with the records that were written."""

import numpy as np
import pytest

from gradwatch.store.step_table import StepTable, stretches_of

from .two_optimizers import OTHERS, RECORDS


@pytest.fixture
def read(opened):
    def change(*statements):
        db, integrity = opened(*statements)
        return StepTable(db, integrity), integrity

    return change


def test_every_column_is_that_of_the_records(read):
    table, integrity = read()
    columns = table.columns()
    assert columns["id"] == list(range(1, 51))
    assert columns["step"] == [record.step for record in RECORDS + OTHERS]
    np.testing.assert_array_equal(
        np.array(columns["total_norm"], float), [record.total_norm for record in RECORDS + OTHERS]
    )
    assert columns["loss"][:2] == [None, 1.0]
    assert not {"nan", "crc", "row_crc"} & columns.keys()
    assert integrity.left_out == set()


def test_a_damaged_step_is_left_out_of_every_column(read):
    table, integrity = read("update step set loss = 7 where id = 4")
    columns = table.columns()
    assert columns["id"] == [number for number in range(1, 51) if number != 4]
    assert len(set(map(len, columns.values()))) == 1
    assert integrity.left_out == {("step", 4)}
    assert 4 not in table.ids("0")[:, 0]


def test_gaps_among_rows_from_before_checksums_are_no_damage_to_one_optimizer_either(read):
    older = ["update step set crc = null, row_crc = null where optimizer = '0'", "delete from step where id = 5"]
    for optimizer in (None, "0", "1"):
        table, integrity = read(*older)
        table.columns(optimizer)
        assert integrity.missing.get("step", 0) == 0


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
    table, _ = read("delete from meta where key = 'next_steps'", *statements)
    assert tuple(table.next_step(name) for name in ("0", "1", "nobody")) == expected
    assert table.next_steps() == {name: step for name, step in zip(("0", "1"), expected, strict=False) if step}


def test_ids_are_those_of_one_optimizer(read):
    table, _ = read()
    assert table.ids("0").tolist() == [[number, number - 1, 0] for number in range(1, 41)]
    assert table.ids("1")[0].tolist() == [41, 100, 0]
    assert table.ids("nobody").shape == (0, 3)


@pytest.mark.parametrize("name", ["0", "1", "nobody"])
def test_of_one_optimizer_the_columns_are_its_part_of_all(read, name):
    table, _ = read("update step set loss = 7 where id in (4, 45)")
    whole = table.columns()
    own = [at for at, optimizer in enumerate(whole["optimizer"]) if optimizer == name]
    for column, values in table.columns(name).items():
        assert list(map(repr, values)) == [repr(whole[column][at]) for at in own]  # a NaN too
    assert table.arrays(name)["id"].tolist() == [whole["id"][at] for at in own]


def test_of_one_optimizer_its_own_damaged_rows_are_counted_and_all_that_are_missing(read):
    table, integrity = read("update step set loss = 7 where id in (4, 45)", "delete from step where id = 47")
    assert len(table.columns("0")["id"]) == 39
    assert integrity.left_out == {("step", 4)}
    assert integrity.missing["step"] == 1
    assert table.columns("1")["id"] == [41, 42, 43, 44, 46, 48, 49, 50]
    assert integrity.left_out == {("step", 4), ("step", 45)}
    assert integrity.missing["step"] == 1


def test_arrays_hold_what_the_columns_hold(read):
    table, _ = read("update step set loss = 7 where id = 4")
    arrays, columns = table.arrays(), table.columns()
    assert arrays["id"].tolist() == columns["id"]
    np.testing.assert_array_equal(arrays["total_norm"], np.array(columns["total_norm"], float))


def test_an_empty_table_has_every_column(read):
    table, _ = read("delete from step", "delete from layer")
    columns = table.columns()
    assert {"id", "step", "loss", "total_norm"} <= columns.keys()
    assert not any(columns.values())
    assert len(table.arrays()["id"]) == 0


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], []),
        ([3], [(3, 3)]),
        ([1, 2, 3], [(1, 3)]),
        ([1, 3, 5], [(1, 1), (3, 3), (5, 5)]),
        ([1, 2, 9, 10, 10**12], [(1, 2), (9, 10), (10**12, 10**12)]),
    ],
)
def test_stretches_of_consecutive_numbers(ids, expected):
    assert stretches_of(np.array(ids, np.int64)) == expected
