"""Runs as a Parquet data set."""

import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.cli import main
from gradwatch.errors import BadArgument, CannotExport, GradwatchError
from gradwatch.export.dataset import INDEX_NAME, Written, write_dataset
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
    assert {path.name for path in (tmp_path / "set" / "steps.parquet" / "run=bad").iterdir()} == {
        "attempt=0",
        "attempt=1",
    }


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
    return {path: path.read_bytes() for path in folder.rglob("*.parquet") if path.is_file()}


def test_a_second_export_takes_what_is_new(runs, written):
    before = contents(written)
    write_run(runs / "new", stream(steady(5)))
    assert write_dataset([runs], str(written)) == Written(runs=1, unchanged=2)
    assert before.items() < contents(written).items()
    again = [replace(record, attempt=1) for record in stream(steady(7), first_step=50)]
    write_run(runs / "good", again)
    assert write_dataset([runs], str(written)) == Written(runs=1, unchanged=2)
    assert len(pd.read_parquet(written / "steps.parquet", filters=[("run", "==", "good")])) == 57


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
    shutil.rmtree(written / "runs.parquet" / "run=good")
    assert write_dataset([runs], str(written)) == Written(runs=1, unchanged=1)
    assert sorted(pd.read_parquet(written / "runs.parquet")["run"]) == ["bad", "good"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": "0"}', '{"version": 1, "runs": []}', "[" * 100_000])
def test_a_damaged_index_costs_a_whole_export(runs, written, text):
    (written / INDEX_NAME).write_text(text)
    assert write_dataset([runs], str(written)) == Written(runs=2, unchanged=0)


def test_an_export_that_breaks_off_keeps_what_it_has_written(runs, tmp_path):
    target = tmp_path / "set"
    (runs / "worse").mkdir()
    (runs / "worse" / "gradwatch.db").write_bytes(b"no database")
    with pytest.raises(GradwatchError):
        write_dataset([runs], str(target))
    shutil.rmtree(runs / "worse")
    assert write_dataset([runs], str(target)) == Written(runs=0, unchanged=2)


def test_any_file_system_of_fsspec_will_do(runs):
    import fsspec

    write_dataset([runs / "good"], "memory://set")
    with fsspec.open_files("memory://set/steps.parquet/run=good/attempt=0/*.parquet")[0] as file:
        assert len(pd.read_parquet(file)) == 50


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
