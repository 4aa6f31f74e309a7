"""Runs as a Parquet data set."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gradwatch
from gradwatch import Run
from gradwatch.cli import main
from gradwatch.errors import BadArgument, CannotExport, DataSetInUse, GradwatchError
from gradwatch.export import dataset
from gradwatch.export.dataset import Written, write_dataset
from gradwatch.export.dataset_files import ASIDE_NAME, INDEX_NAME
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

pytest.importorskip("pyarrow")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs" / "good", stream(steady(50)))
    first = stream(replaced(steady(60), {40: float("nan")}))
    again = [replace(record, attempt=1) for record in stream(steady(30), first_step=50)]
    write_run(tmp_path / "runs" / "bad", [*first, *again])
    return tmp_path / "runs"


def test_a_data_set_holds_what_the_runs_hold(runs, tmp_path):
    assert write_dataset([runs], str(tmp_path / "set")) == Written(runs=2, unchanged=0)
    steps = pd.read_parquet(tmp_path / "set" / "steps.parquet")
    layers = pd.read_parquet(tmp_path / "set" / "layers.parquet")
    events = pd.read_parquet(tmp_path / "set" / "events.parquet")
    about = pd.read_parquet(tmp_path / "set" / "runs.parquet").set_index("run")
    for name in ("good", "bad"):
        run = Run(runs / name)
        own = steps[steps["run"] == name].sort_values("step")
        np.testing.assert_array_equal(own["total_norm"], run.steps()["total_norm"])
        assert own["attempt"].astype(int).tolist() == run.steps()["attempt"].tolist()
        norms = layers[layers["run"] == name].pivot_table(
            index="step", columns="parameter", values="norm", dropna=False
        )
        names = [info.name for info in run.parameters()]
        np.testing.assert_array_equal(norms[names], run.layers("norm"))
        kinds = events.loc[events["run"] == name, "kind"].tolist()
        assert kinds == [event.kind for event in run.events()]
        assert about.loc[name, "verdict"] == run.summary().verdict


def test_a_run_that_is_written_again_takes_its_own_place(runs, tmp_path):
    target = str(tmp_path / "set")
    write_dataset([runs / "good", runs / "bad"], target)
    write_run(runs / "good", [replace(record, attempt=1) for record in stream(steady(7), first_step=50)])
    write_dataset([runs / "good"], target)
    steps = pd.read_parquet(Path(target) / "steps.parquet")
    assert steps.groupby("run", observed=True).size().to_dict() == {"bad": 80, "good": 57}


@pytest.fixture
def written(runs, tmp_path):
    """A data set of both runs."""
    write_dataset([runs], str(tmp_path / "set"))
    return tmp_path / "set"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(target, table, run):
    """The rows of a run, as text that tells every value."""
    frame = pd.read_parquet(target / f"{table}.parquet")
    return frame[frame["run"] == run].to_csv(index=False)


TABLES = ("runs", "steps", "layers", "events")


def everything(target):
    """All rows of each run and table."""
    runs = sorted(pd.read_parquet(target / "runs.parquet")["run"])
    return {(table, run): rows(target, table, run) for table in TABLES for run in runs}


def test_many_runs_share_a_file(written):
    assert {path.parent.name for path in written.rglob("*.parquet") if path.is_file()} == {
        f"{table}.parquet" for table in TABLES
    }
    assert len([path for path in written.rglob("*.parquet") if path.is_file()]) == len(TABLES)


def test_a_second_export_takes_what_is_new(runs, written, tmp_path):
    write_run(runs / "new", stream(steady(5)))
    assert write_dataset([runs], str(written)) == Written(runs=1, unchanged=2)
    again = [replace(record, attempt=1) for record in stream(steady(7), first_step=50)]
    write_run(runs / "good", again)
    assert write_dataset([runs], str(written)) == Written(runs=1, unchanged=2)
    write_dataset([runs], str(tmp_path / "afresh"))
    assert everything(written) == everything(tmp_path / "afresh")
    assert len(pd.read_parquet(written / "steps.parquet", filters=[("run", "==", "good")])) == 57


@pytest.fixture
def small_parts(monkeypatch):
    """Parts that are full with one run."""
    monkeypatch.setattr(dataset, "PART_BYTES", 1)


def files_of(target, run):
    names = {}
    for file in (target / "runs.parquet").iterdir():
        names |= dict.fromkeys(pd.read_parquet(file)["run"], file.name)
    return {target / f"{table}.parquet" / names[run] for table in TABLES}


def test_only_the_files_of_a_run_that_has_changed_are_written(runs, tmp_path, small_parts):
    target = tmp_path / "set"
    write_dataset([runs], str(target))
    assert files_of(target, "good").isdisjoint(files_of(target, "bad"))
    others = {path: path.stat().st_ino for path in files_of(target, "bad")}
    write_run(runs / "good", [replace(record, attempt=1) for record in stream(steady(7), first_step=50)])
    write_dataset([runs], str(target))
    assert {path: path.stat().st_ino for path in others} == others
    assert len(pd.read_parquet(target / "steps.parquet", filters=[("run", "==", "good")])) == 57


def test_a_run_that_grows_stays_in_its_file_and_new_ones_go_to_another(runs, written, small_parts):
    write_run(runs / "good", [replace(record, attempt=1) for record in stream(steady(7), first_step=50)])
    write_run(runs / "new", stream(steady(5)))
    assert write_dataset([runs], str(written)) == Written(runs=2, unchanged=1)
    assert files_of(written, "good") == files_of(written, "bad")
    assert files_of(written, "good").isdisjoint(files_of(written, "new"))
    steps = pd.read_parquet(written / "steps.parquet")
    assert steps.groupby("run").size().to_dict() == {"bad": 80, "good": 57, "new": 5}


def test_new_runs_fill_the_file_that_has_room(runs, written):
    for number in range(3):
        write_run(runs / f"new{number}", stream(steady(5)))
        assert write_dataset([runs], str(written)).runs == 1
    assert len([*(written / "runs.parquet").iterdir()]) == 1
    assert len(pd.read_parquet(written / "runs.parquet")) == 5


def test_a_run_that_is_deleted_loses_its_rows(runs, written):
    shutil.rmtree(runs / "good")
    assert write_dataset([runs], str(written)) == Written(runs=0, unchanged=1, removed=1)
    for table in TABLES:
        assert set(pd.read_parquet(written / f"{table}.parquet")["run"]) == {"bad"}
    assert write_dataset([runs], str(written)) == Written(runs=0, unchanged=1)


def test_files_without_a_run_are_deleted(runs, tmp_path, small_parts):
    target = tmp_path / "set"
    write_dataset([runs], str(target))
    gone = files_of(target, "good")
    shutil.rmtree(runs / "good")
    write_dataset([runs], str(target))
    assert not any(path.exists() for path in gone)


def test_a_deleted_run_is_kept_where_that_is_asked_for(runs, written):
    shutil.rmtree(runs / "good")
    assert write_dataset([runs], str(written), keep_deleted=True) == Written(runs=0, unchanged=1)
    assert set(pd.read_parquet(written / "runs.parquet")["run"]) == {"good", "bad"}


def test_an_export_removes_no_run_of_another_folder(runs, written, tmp_path):
    write_run(tmp_path / "elsewhere" / "other", stream(steady(5)))
    shutil.rmtree(runs / "good")
    assert write_dataset([tmp_path / "elsewhere"], str(written)) == Written(runs=1, unchanged=0)
    assert set(pd.read_parquet(written / "runs.parquet")["run"]) == {"good", "bad", "other"}


def test_a_run_that_begins_anew_loses_its_rows(runs, written):
    shutil.rmtree(runs / "good")
    writer = StoreWriter(runs / "good")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.end_attempt("closed")
    assert write_dataset([runs], str(written)) == Written(runs=0, unchanged=1, removed=1)
    assert set(pd.read_parquet(written / "steps.parquet")["run"]) == {"bad"}


@pytest.mark.parametrize("name", ["lr=0.1 wd=0", "50%", "ü", "[ab]"])
def test_a_run_is_found_again_by_any_name(tmp_path, name):
    target = str(tmp_path / "set")
    records = [*stream(steady(9)), *(replace(record, attempt=1) for record in stream(steady(5), first_step=9))]
    write_run(tmp_path / "runs" / name, records)
    write_dataset([tmp_path / "runs"], target)
    assert write_dataset([tmp_path / "runs"], target) == Written(runs=0, unchanged=1)
    shutil.rmtree(tmp_path / "runs" / name)
    write_run(tmp_path / "runs" / name, stream(steady(7)))
    assert write_dataset([tmp_path / "runs"], target) == Written(runs=1, unchanged=0)
    for table in ("steps", "runs"):
        assert set(pd.read_parquet(tmp_path / "set" / f"{table}.parquet")["run"]) == {name}
    assert len(pd.read_parquet(tmp_path / "set" / "steps.parquet")) == 7


def test_a_run_that_is_being_written_is_taken_each_time(tmp_path):
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([replace(record, layers=None) for record in stream(steady(5))])
    for _ in range(2):  # its process may have been killed in between, which leaves no trace in the store
        assert write_dataset([tmp_path / "run"], str(tmp_path / "set")) == Written(runs=1, unchanged=0)
    writer.end_attempt("closed")
    assert write_dataset([tmp_path / "run"], str(tmp_path / "set")) == Written(runs=1, unchanged=0)
    assert write_dataset([tmp_path / "run"], str(tmp_path / "set")) == Written(runs=0, unchanged=1)


def test_a_run_whose_files_are_gone_is_written_again(runs, written):
    for table in TABLES:
        for file in (written / f"{table}.parquet").iterdir():
            file.unlink()
        assert write_dataset([runs], str(written)) == Written(runs=2, unchanged=0)
        assert sorted(pd.read_parquet(written / "runs.parquet")["run"]) == ["bad", "good"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "[" * 100_000, '{"version": "0"}', '{"schema": 2, "version": 1, "runs": []}'),
        '{"schema": 2, "version": "0", "runs": {"good": [0, "x", null]}, "unfinished": null}',
        '{"schema": 2, "version": "0", "runs": {"good": [0, null, null]}, "unfinished": [1]}',
    ],
)
def test_a_damaged_index_costs_a_whole_export(runs, written, text):
    before = everything(written)
    (written / INDEX_NAME).write_text(text)
    assert write_dataset([runs], str(written)) == Written(runs=2, unchanged=0)
    assert everything(written) == before


def test_another_version_of_gradwatch_writes_all_runs_again(runs, written):
    text = (written / INDEX_NAME).read_text()
    version = json.dumps({"version": gradwatch.__version__})[1:-1]
    assert version in text
    (written / INDEX_NAME).write_text(text.replace(version, '"version": "0.0.0"'))
    assert write_dataset([runs], str(written)) == Written(runs=2, unchanged=0)


def test_the_files_of_a_newer_version_are_left_alone(runs, written):
    (written / INDEX_NAME).write_text('{"schema": 99}')
    before = contents(written)
    with pytest.raises(CannotExport, match="newer gradwatch"):
        write_dataset([runs], str(written))
    assert contents(written) == before


def test_a_run_that_can_not_be_read_does_not_hold_up_the_others(runs, tmp_path):
    target = tmp_path / "set"
    for name in ("a", "z"):
        (runs / name).mkdir()
        (runs / name / "gradwatch.db").write_bytes(b"no database")
    with pytest.raises(GradwatchError, match="'z' can't be read either"):
        write_dataset([runs], str(target))
    for name in ("a", "z"):
        shutil.rmtree(runs / name)
    assert write_dataset([runs], str(target)) == Written(runs=0, unchanged=2)


def test_a_run_that_can_not_be_read_any_more_keeps_its_rows(runs, written):
    before = everything(written)
    (runs / "good" / "gradwatch.db").write_bytes(b"no database")
    with pytest.raises(GradwatchError):
        write_dataset([runs], str(written))
    assert everything(written) == before


def old_layout(target, runs):
    """A data set as versions before the first release wrote it: a folder for each run in each table."""
    for name in runs:
        for table in TABLES:
            folder = target / f"{table}.parquet" / f"run={name}"
            folder.mkdir(parents=True)
            pd.DataFrame({"step": [1, 2]}).to_parquet(folder / "part-0-0.parquet")
    (target / INDEX_NAME).write_text('{"version": "0.1.0", "runs": {}}')


def test_a_data_set_of_the_old_layout_is_rewritten(runs, written, tmp_path, small_parts):
    old_layout(tmp_path / "old", ["good", "bad"])
    done = write_dataset([runs], str(tmp_path / "old"))
    assert done == Written(runs=2, unchanged=0, from_version_1=True)
    assert everything(tmp_path / "old") == everything(written)
    assert not [*(tmp_path / "old").rglob("run=*")]
    assert write_dataset([runs], str(tmp_path / "old")) == Written(runs=0, unchanged=2)


def test_an_old_data_set_with_other_runs_is_left_alone(runs, tmp_path):
    old_layout(tmp_path / "old", ["good", "other"])
    before = contents(tmp_path / "old")
    with pytest.raises(CannotExport, match="holds 'other', not among the runs"):
        write_dataset([runs], str(tmp_path / "old"))
    assert before.items() <= contents(tmp_path / "old").items()


def test_two_exports_at_once_are_refused(runs, written):
    holds = f"""
import sys
from gradwatch.export.dataset_files import DataSet
with DataSet.at({str(written)!r}).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(DataSetInUse, match=f"process {other.pid} exports into .*data-set-in-use"):
            write_dataset([runs], str(written))
        other.kill()  # the system takes the lock from it
    assert write_dataset([runs], str(written)) == Written(runs=0, unchanged=2)


KILLED = """
import os, shutil, sys
import pandas, pyarrow.dataset, pyarrow.parquet, fsspec.implementations.local
from pathlib import Path
from gradwatch.export import dataset
from gradwatch.analysis.summary import summarize
runs, base, folder, first, stride = Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:])
dataset.PART_BYTES = 1
for number in range(first, 1000, stride):
    target = f"{folder}/{number:03d}"
    shutil.copytree(base, target)
    if not os.fork():
        left = number
        def die(event, arguments):
            global left
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and target in str(arguments[0]):
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(die)
        dataset.write_dataset([runs], target)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_an_export_that_is_killed_leaves_the_old_or_the_new_rows(runs, tmp_path, stride, monkeypatch):
    """It is killed before each of its operations on files in turn."""
    write_run(runs / "gone", stream(steady(20)))
    base, target = tmp_path / "base", tmp_path / "afresh"
    with monkeypatch.context() as patched:
        write_dataset([runs], str(base))
        patched.setattr(dataset, "PART_BYTES", 1)
        write_run(runs / "new", stream(steady(5)))
        write_dataset([runs], str(base))  # a full file, and one with a run of its own
        write_run(runs / "good", [replace(record, attempt=1) for record in stream(steady(7), first_step=50)])
        write_run(runs / "newer", stream(steady(6)))
        shutil.rmtree(runs / "gone")
    write_dataset([runs], str(target))
    old, new = everything(base), everything(target)
    assert {name for _, name in old} == {"good", "bad", "gone", "new"}
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", KILLED, runs, base, tmp_path / "killed", str(stride // 2), str(stride)]
    subprocess.run(command, check=True, timeout=300)
    killed = sorted((tmp_path / "killed").iterdir())
    assert len(killed) > 60 // stride
    states = set()
    for place in killed:
        for table in TABLES:
            names = {name for _, name in {**old, **new}}
            now = {name: rows(place, table, name) for name in names}
            empty = rows(place, table, "no run")
            for name in names:
                assert now[name] in (old.get((table, name), empty), new.get((table, name), empty)), (place, table, name)
            states.add(now["good"] == new[table, "good"])
        write_dataset([runs], str(place))
        assert everything(place) == new
        assert not (place / ASIDE_NAME).exists()
    assert states == {True, False}


def test_any_file_system_of_fsspec_will_do(runs):
    import fsspec

    write_dataset([runs / "good"], "memory://set")
    write_run(runs / "new", stream(steady(5)))
    assert write_dataset([runs / "good", runs / "new"], "memory://set") == Written(runs=1, unchanged=1)
    with fsspec.open_files("memory://set/steps.parquet/*.parquet")[0] as file:
        assert pd.read_parquet(file).groupby("run").size().to_dict() == {"good": 50, "new": 5}


def test_each_file_tells_the_version_of_its_columns(written):
    import pyarrow.parquet as pq

    for table in TABLES:
        found = pq.read_schema(written / f"{table}.parquet" / "part-00000.parquet")
        assert found.metadata[b"gradwatch.schema"] == b"2"
        assert found.metadata[b"gradwatch.version"] == gradwatch.__version__.encode()


def test_two_runs_of_one_name_are_refused(runs, tmp_path):
    write_run(tmp_path / "other" / "good", stream(steady(5)))
    with pytest.raises(BadArgument, match="both called 'good'"):
        write_dataset([runs, tmp_path / "other"], str(tmp_path / "set"))


def test_a_target_that_can_not_be_written_is_said(runs, tmp_path):
    (tmp_path / "set").write_text("")
    with pytest.raises(CannotExport, match="can't be written"):
        write_dataset([runs], str(tmp_path / "set"))
    with pytest.raises(CannotExport, match="can't be written"):
        write_dataset([runs], "nosuch://set")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write")
def test_a_folder_that_can_not_be_written_is_said(runs):
    with pytest.raises(CannotExport, match="can't be written"):
        write_dataset([runs], "/proc/self")


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gradwatch", "export", str(runs), str(tmp_path / "set"), "--parquet"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "wrote 2 runs" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main()
    assert "wrote 0 runs to" in (said := capsys.readouterr().out)
    assert "; 2 runs unchanged" in said


def test_the_question_of_the_documentation_is_answered_by_duckdb(tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    for name, norms in (("good", steady(400)), ("bad", [*steady(300), *[math.nan] * 100]), ("7", [*steady(399), 1e9])):
        write_run(tmp_path / "runs" / name, stream(norms, max_norm=1.5))
    write_dataset([tmp_path / "runs"], str(tmp_path / "data"))
    (block,) = re.findall(
        r"```python\n(import duckdb\n.*?)```", (ROOT / "docs" / "many-runs.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    printed = []
    exec(block, {"print": printed.append})
    events = [(name, event) for name in ("good", "bad", "7") for event in Run(tmp_path / "runs" / name).events()]
    critical = {}
    for name, event in sorted(events, key=lambda pair: pair[1].step):
        if event.severity == "critical":
            critical.setdefault(name, event.parameter)
    assert critical
    assert sorted(printed[0].fetchall()) == sorted((name, layer, 1.5) for name, layer in critical.items())


@pytest.mark.slow
def test_many_runs_are_asked_by_dask(tmp_path):
    pytest.importorskip("dask")
    script = ROOT / "examples" / "many_runs.py"
    done = subprocess.run(
        [sys.executable, script, "--runs", "24"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "share of runs that exploded, by threshold:" in done.stdout
    assert "24 runs: trained in" in done.stdout
    critical = [r for r in (tmp_path / "runs" / "many").iterdir() if Run(r).summary().verdict == "critical"]
    began = done.stdout.partition("where it began:\n")[2].partition("\n\n")[0].splitlines()
    assert sum(int(line.split()[-1]) for line in began) == len(critical)
