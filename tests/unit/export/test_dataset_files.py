"""The files of a data set: the index, the parts and their rows, against plain files and pyarrow."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradwatch.errors import CannotExport, DataSetInUse
from gradwatch.export.dataset_files import (
    ASIDE_NAME,
    INDEX_NAME,
    ROWS_OF_A_GROUP,
    Commit,
    DataSet,
    Entry,
    Index,
    PartWriter,
    _number,
)
from gradwatch.export.dataset_tables import SCHEMA_VERSION, TABLES, schema
from gradwatch.version import __version__

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")


@pytest.fixture
def dataset(tmp_path):
    return DataSet.at(str(tmp_path / "set"))


def rows(table, run, norms=(1.0,)):
    """Rows of a run, with a norm where the table has one and nothing in the other columns."""
    columns = {"run": [run] * len(norms), "total_norm": list(norms)}
    nothing = [None] * len(norms)
    return pa.table(
        {field.name: pa.array(columns.get(field.name, nothing), field.type) for field in schema(table)}, schema(table)
    )


def write_part(dataset, number, runs):
    """Write a part with these runs aside, and put it in its place."""
    part = PartWriter(dataset, number)
    for run, norms in runs.items():
        for table in TABLES:
            part.add(table, rows(table, run, norms))
    part.close()
    return dataset.commit(Index({run: Entry(number) for run in runs}, Commit(new=(number,))))


def files_under(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------- index


@pytest.mark.parametrize(
    "index",
    [
        Index(),
        Index({"a": Entry(0)}),
        Index({"ü/\"'\n": Entry(99_999, (1, 2**63, -1), "/runs/ü"), "": Entry(3, (), None)}),
        Index({"a": Entry(1, (5,))}, Commit()),
        Index({"a": Entry(1, (5,))}, Commit((1, 2), (3,), True)),
    ],
)
def test_an_index_is_read_as_it_was_written(index):
    assert Index.from_json(index.as_json().encode()) == index


def test_stamps_of_another_version_do_not_count():
    text = Index({"a": Entry(1, (5,), "here")}).as_json().replace(f'"{__version__}"', '"0.0.1"')
    assert Index.from_json(text.encode()) == Index({"a": Entry(1, None, "here")})


GOOD = {"schema": SCHEMA_VERSION, "version": __version__, "runs": {}, "unfinished": None}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"3",
        b"[" * 100_000,
        json.dumps(GOOD | {"schema": SCHEMA_VERSION - 1}).encode(),
        json.dumps(GOOD | {"runs": {"a": [1, None]}}).encode(),
        json.dumps(GOOD | {"runs": {"a": ["x", None, None]}}).encode(),
        json.dumps(GOOD | {"runs": {"a": [1, [math.nan], None]}}).encode(),
        json.dumps(GOOD | {"runs": {"a": [None, None, None]}}).encode(),
        json.dumps(GOOD | {"runs": {"a": [math.inf, None, None]}}).encode(),
        json.dumps(GOOD | {"unfinished": [[-math.inf], [], False]}).encode(),
        json.dumps(GOOD | {"runs": 3}).encode(),
        json.dumps(GOOD | {"unfinished": [[1]]}).encode(),
        *(json.dumps({key: value for key, value in GOOD.items() if key != left_out}).encode() for left_out in GOOD),
    ],
)
def test_a_damaged_index_is_none(text):
    assert Index.from_json(text) is None


def test_a_data_set_of_a_newer_version_is_refused(dataset, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / INDEX_NAME).write_text(json.dumps(GOOD | {"schema": SCHEMA_VERSION + 1}))
    with pytest.raises(CannotExport, match="newer gradwatch"):
        dataset.open()


# -------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("number", [0, 1, 99_999, 100_000, 10**9])
def test_the_name_of_a_part_tells_its_number(dataset, number):
    assert _number(dataset.place("runs", number).rpartition("/")[2]) == number


@pytest.mark.parametrize("name", ["part-1.parquet", "part-000001.parquet", "part--0001.parquet", "part-00001", ""])
def test_another_name_is_no_part(name):
    assert _number(name) is None


def test_an_empty_place_has_nothing(dataset):
    assert dataset.open() == Index()
    assert dataset.sizes() == {}
    assert dataset.runs_of_version_1() == set()


def test_rows_are_those_that_were_added_whatever_the_numbers(dataset, tmp_path):
    norms = [0.0, math.nan, math.inf, -math.inf, 1e300, 5e-324, None]
    write_part(dataset, 7, {"a": norms, "none": []})
    found = pq.read_table(tmp_path / "set" / "steps.parquet" / "part-00007.parquet")
    assert found["run"].to_pylist() == ["a"] * 7
    assert [repr(value) for value in found["total_norm"].to_pylist()] == [repr(value) for value in norms]
    assert dataset.sizes() == {
        7: sum(path.stat().st_size for path in (tmp_path / "set").rglob("*.parquet") if path.is_file())
    }


def test_rows_of_small_runs_share_a_row_group_and_those_of_a_long_one_do_not(dataset, tmp_path):
    write_part(dataset, 0, {"a": [1.0], "b": [2.0, 3.0], "long": [4.0] * (ROWS_OF_A_GROUP + 1)})
    file = pq.ParquetFile(tmp_path / "set" / "steps.parquet" / "part-00000.parquet")
    groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert groups == [ROWS_OF_A_GROUP, 4]


def test_a_part_lies_aside_until_it_is_committed(dataset, tmp_path):
    PartWriter(dataset, 1).close()
    assert dataset.sizes() == {}
    assert all(name.startswith(ASIDE_NAME) for name in files_under(tmp_path / "set"))
    assert len(files_under(tmp_path / "set")) == len(TABLES)
    dataset.clear_aside()
    assert files_under(tmp_path / "set") == set()


def test_only_the_rows_of_the_runs_that_were_asked_for_are_copied(dataset, tmp_path):
    write_part(dataset, 0, {"a": [1.0, math.nan], "b": [2.0], "c": [math.inf]})
    copy = PartWriter(dataset, 1)
    dataset.copy_rows(0, ["a", "c", "unknown"], copy)
    dataset.copy_rows(0, [], copy)
    dataset.copy_rows(99, ["a"], copy)  # a part that is not there
    copy.close()
    dataset.commit(Index({}, Commit(new=(1,))))
    found = pq.read_table(tmp_path / "set" / "steps.parquet" / "part-00001.parquet")
    assert found["run"].to_pylist() == ["a", "a", "c"]
    assert [repr(value) for value in found["total_norm"].to_pylist()] == ["1.0", "nan", "inf"]


# ------------------------------------------------------------------------------------------- commits


def test_what_a_killed_export_had_noted_is_done_by_the_next(dataset, tmp_path):
    write_part(dataset, 0, {"old": [1.0]})
    part = PartWriter(dataset, 1)
    for table in TABLES:
        part.add(table, rows(table, "new"))
    part.close()
    noted = Index({"new": Entry(1, (3,))}, Commit(new=(1,), dropped=(0,)))
    (tmp_path / "set" / INDEX_NAME).write_text(noted.as_json())
    Path(dataset.aside("steps", 1)).replace(dataset.place("steps", 1))  # it had come this far
    assert dataset.open() == Index({"new": Entry(1, (3,))})
    assert [*dataset.sizes()] == [1]
    assert files_under(tmp_path / "set") == {INDEX_NAME, *(f"{table}.parquet/part-00001.parquet" for table in TABLES)}


def test_what_was_not_noted_is_deleted(dataset, tmp_path):
    known = write_part(dataset, 0, {"old": [1.0]})
    before = files_under(tmp_path / "set")
    PartWriter(dataset, 1).close()
    assert dataset.open() == known
    assert files_under(tmp_path / "set") == before


def test_without_an_index_the_runs_are_looked_up_in_the_files(dataset, tmp_path):
    write_part(dataset, 0, {"a": [1.0], "b": [2.0]})
    write_part(dataset, 3, {"c": [3.0]})
    (tmp_path / "set" / INDEX_NAME).unlink()
    (tmp_path / "set" / "runs.parquet" / "notes.parquet").write_text("no part")
    assert dataset.open() == Index({"a": Entry(0), "b": Entry(0), "c": Entry(3)})


def test_a_part_without_a_file_of_some_table_has_no_size(dataset, tmp_path):
    write_part(dataset, 0, {"a": [1.0]})
    (tmp_path / "set" / f"{TABLES[0]}.parquet" / "part-00000.parquet").unlink()
    assert dataset.sizes() == {}


# --------------------------------------------------------------------------------------------- lock

LOCK = """
import sys
from gradwatch.errors import DataSetInUse
from gradwatch.export.dataset_files import DataSet
try:
    with DataSet.at(sys.argv[1]).locked():
        print("locked")
except DataSetInUse as error:
    print(error)
"""


def test_one_process_has_the_lock_until_it_gives_it_back(dataset):
    def other():
        command = [sys.executable, "-c", LOCK, dataset.root]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with dataset.locked():
        assert re.match(rf"process {os.getpid()} exports into ", other())
    assert other() == "locked\n"


def test_a_lock_is_given_back_after_an_error(dataset):
    with pytest.raises(DataSetInUse), dataset.locked():
        raise DataSetInUse("raised within")
    with dataset.locked():
        pass
