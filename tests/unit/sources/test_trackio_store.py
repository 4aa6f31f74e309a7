"""trackio's database as rows of one run."""

import json
import math
import sqlite3

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources.databases import Database
from gradwatch.sources.trackio_store import read


@pytest.fixture
def project(tmp_path):
    """Make a database of these rows: run, step and what was logged, as text or bytes."""

    def make(*rows, config=None, with_id=False):
        path = tmp_path / "project.db"
        key = "run_id text, " if with_id else ""
        with sqlite3.connect(path) as db:
            db.execute(f"create table metrics (id integer primary key, {key}run_name text, step integer, metrics)")
            for run, step, logged in rows:
                text = logged if isinstance(logged, str | bytes | None) else json.dumps(logged)
                names = ("run_id", "run_name") if with_id else ("run_name",)
                values = (f"id-{run}", run) if with_id else (run,)
                marks = ", ".join("?" * (len(values) + 2))
                db.execute(
                    f"insert into metrics ({', '.join(names)}, step, metrics) values ({marks})", (*values, step, text)
                )
            if config is not None:
                db.execute("create table configs (run_name text, config text)")
                db.execute("insert into configs values ('a', ?)", (config,))
        db.close()
        return Database(path)

    return make


def test_rows_come_in_the_order_of_their_steps(project):
    with project(("a", 2, {"norm": 2.0}), ("a", 1, {"norm": 1.0}), ("a", 2, b'{"loss": 3}')) as db:
        rows, run = read(db, None)
    assert rows == [{"step": 1, "norm": 1.0}, {"step": 2, "norm": 2.0}, {"step": 2, "loss": 3}]
    assert (run.key, run.name, dict(run.settings)) == ("a", "a", {})


def test_numbers_that_json_lacks_are_strings_there(project):
    with project(("a", 0, {"x": "NaN", "y": "Infinity", "z": "-Infinity"})) as db:
        (row,), _ = read(db, None)
    assert math.isnan(row["x"])
    assert (row["y"], row["z"]) == (math.inf, -math.inf)


def test_what_is_no_number_is_left_out(project):
    logged = {"norm": 1, "text": "high", "flag": True, "nothing": None, "picture": {"_type": "image"}, "list": [1]}
    with project(("a", 0, logged)) as db:
        assert read(db, None)[0] == [{"step": 0, "norm": 1}]


def test_the_step_is_that_of_the_table_not_one_that_was_logged(project):
    with project(("a", 7, {"step": 99, "norm": 1.0})) as db:
        assert read(db, None)[0] == [{"step": 7, "norm": 1.0}]


def test_a_run_is_chosen_by_its_name_or_its_id(project):
    with project(("a", 0, {"x": 1}), ("b", 0, {"x": 2}), with_id=True) as db:
        assert read(db, "b")[0] == read(db, "id-b")[0] == [{"step": 0, "x": 2}]
        with pytest.raises(CannotImport, match="2 runs; name one with --of"):
            read(db, None)


def test_settings_are_text(project):
    with project(("a", 0, {"x": 1}), config='{"lr": 0.1, "optimizer": "AdamW", "nested": {"a": 1}}') as db:
        assert read(db, None)[1].settings == {"lr": "0.1", "optimizer": "AdamW", "nested": "{'a': 1}"}


def test_a_project_without_rows_holds_no_run(project):
    with project() as db, pytest.raises(CannotImport, match="no run with metrics"):
        read(db, None)


@pytest.mark.parametrize("text", ["{", "", "[1]", "3", b"\xff\xfe", None, "[" * 100_000])
def test_a_row_that_is_no_json_object_is_refused(project, text):
    with project(("a", 0, text)) as db, pytest.raises(CannotImport, match=r"project\.db"):
        read(db, None)


def test_a_config_that_is_no_json_is_refused(project):
    with project(("a", 0, {"x": 1}), config="{") as db, pytest.raises(CannotImport, match="not JSON"):
        read(db, None)
