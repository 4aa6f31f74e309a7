"""MLflow's folder and its database, as values of one run."""

import math
import sqlite3

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import mlflow_store as module
from gradwatch.sources.databases import Database
from gradwatch.sources.mlflow_store import is_folder, read_database, read_folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "mlruns" / "1" / "abc"
    (folder / "metrics" / "train").mkdir(parents=True)
    (folder / "meta.yaml").write_text("run_id: abc\nrun_name: 'my run'\n")
    return folder


def metric(run, *lines, name="train/norm"):
    (run / "metrics" / name).write_text("\n".join(lines))


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_run_an_experiment_and_a_whole_folder_are_known(run, up):
    folder = [run, *run.parents][up]
    metric(run, "1000 0.5 3")
    assert is_folder(folder)
    rows, found = read_folder(folder, None)
    assert rows == [{"step": 3.0, "train/norm": 0.5}]
    assert (found.key, found.name) == ("abc", "my run")


def test_other_folders_are_not_mlflow_s(tmp_path, run):
    assert not is_folder(tmp_path / "none")
    assert not is_folder(run / "meta.yaml")
    (run / "meta.yaml").unlink()
    assert not is_folder(run)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("nan", math.nan), ("NaN", math.nan), ("inf", math.inf), ("-Infinity", -math.inf), ("1e-320", 1e-320)],
)
def test_numbers_of_every_kind(run, text, expected):
    metric(run, f"1000 {text} 0")
    (row,), _ = read_folder(run, None)
    assert row["train/norm"] == pytest.approx(expected, nan_ok=True)


def test_a_line_of_old_versions_has_no_step(run):
    metric(run, "1000 2.5", "", "   ")
    assert read_folder(run, None)[0] == [{"step": 0.0, "train/norm": 2.5}]


@pytest.mark.parametrize("line", ["1000", "x", "1000 high 1", "1000 1.0 first", "\x00\xff"])
def test_a_line_that_is_no_metric_names_its_file_and_number(run, line):
    metric(run, "1000 1.0 0", line)
    with pytest.raises(CannotImport, match=r"norm' holds .* in line 2; expected milliseconds"):
        read_folder(run, None)


def test_settings_are_the_files_of_params(run):
    metric(run, "1000 1.0 0")
    (run / "params" / "model").mkdir(parents=True)
    (run / "params" / "lr").write_text("0.1\n")
    (run / "params" / "model" / "name").write_text("gpt")
    assert read_folder(run, None)[1].settings == {"lr": "0.1", "model/name": "gpt"}


def test_a_parameter_that_is_too_large_is_refused(run, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE", 30)
    (run / "meta.yaml").write_text("run_name: a\n")
    metric(run, *["1000 1.0 0"] * 10)
    assert len(read_folder(run, None)[0]) == 1
    (run / "params").mkdir(exist_ok=True)
    (run / "params" / "lr").write_text("1" * 31)
    with pytest.raises(CannotImport, match="more than 30 bytes"):
        read_folder(run, None)


def test_an_empty_metric_is_no_row(run):
    metric(run)
    assert read_folder(run, None)[0] == []


@pytest.fixture
def database(tmp_path):
    """A tracking server's database with one run, to which a test adds rows of table metrics."""
    path = tmp_path / "mlflow.db"
    db = sqlite3.connect(path)
    db.execute("create table runs (run_uuid text, name text)")
    db.execute("create table params (run_uuid text, key text, value text)")
    db.execute("create table metrics (run_uuid text, key text, value, is_nan, step, timestamp)")
    db.execute("insert into runs values ('abc', null), ('unused', 'b')")
    db.execute("insert into params values ('abc', 'lr', '0.1')")

    def add(*rows):
        db.executemany("insert into metrics values ('abc', 'norm', ?, ?, ?, 1000)", rows)
        db.commit()
        return Database(path)

    yield add
    db.close()


def test_a_database_says_infinity_by_its_largest_number_and_nan_by_a_flag(database):
    largest = module.LARGEST
    with database((0.0, 1, 0), (largest, 0, 1), (-largest, 0, 2), (largest / 2, 0, 3)) as db:
        rows, run = read_database(db, None)
    assert [row["norm"] for row in rows] == pytest.approx([math.nan, math.inf, -math.inf, largest / 2], nan_ok=True)
    assert (run.key, run.name, run.settings) == ("abc", "", {"lr": "0.1"})


def test_a_run_without_metrics_is_none_to_choose_from(database):
    with database((1.0, 0, 0)) as db:
        assert read_database(db, None)[1].key == "abc"
        with pytest.raises(CannotImport, match="no run 'unused'"):
            read_database(db, "unused")


@pytest.mark.parametrize("value", ["high", None, b"\xff"])
def test_a_value_that_is_no_number_is_refused(database, value):
    with database((value, 0, 0)) as db, pytest.raises(CannotImport, match="as a value of 'norm'"):
        read_database(db, None)
