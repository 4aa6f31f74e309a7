"""`gradwatch export`: a table, event files or a data set, and what is missing to write one."""

import shutil

import pandas as pd
import pytest

from gradwatch import Run


def test_steps_are_the_default(runs, command, tmp_path):
    assert (
        command("export", runs / "bad", tmp_path / "steps.csv").out == f"wrote 705 rows to {tmp_path / 'steps.csv'}\n"
    )
    frame = pd.read_csv(tmp_path / "steps.csv", index_col="step")
    pd.testing.assert_series_equal(frame["total_norm"], Run(runs / "bad").steps()["total_norm"])


def test_a_statistic_of_the_layers(runs, command, tmp_path):
    command("export", runs / "bad", tmp_path / "norm.parquet", "--what", "norm")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "norm.parquet"), Run(runs / "bad").layers("norm"))


def test_event_files_alone_or_beside_a_table(runs, command, tmp_path):
    alone = command("export", runs / "good", "--tensorboard", tmp_path / "logs")
    assert alone.out == f"wrote the scalars of 800 steps to {tmp_path / 'logs'}\n"
    both = command("export", runs / "good", tmp_path / "x.csv", "--tensorboard", tmp_path / "more")
    assert len(both.out.splitlines()) == 2
    assert list((tmp_path / "more").glob("*tfevents*"))


def test_runs_as_a_data_set(runs, command, tmp_path):
    target = tmp_path / "set"
    assert command("export", runs, target, "--parquet").out == f"wrote 2 runs to {target}\n"
    shutil.copytree(runs, tmp_path / "mine")
    moved = command("export", tmp_path / "mine", target, "--parquet")
    assert moved.out == f"wrote 0 runs to {target}; 2 runs unchanged\n"
    shutil.rmtree(tmp_path / "mine" / "bad")
    kept = command("export", tmp_path / "mine", target, "--parquet", "--keep-deleted")
    assert kept.out == f"wrote 0 runs to {target}; 1 run unchanged\n"
    done = command("export", tmp_path / "mine", target, "--parquet")
    assert done.out == f"wrote 0 runs to {target}; 1 run unchanged; removed 1 run no longer there\n"


def test_a_data_set_of_the_old_layout(runs, command, tmp_path):
    target = tmp_path / "set"
    (target / "runs.parquet" / "run=good").mkdir(parents=True)
    done = command("export", runs, target, "--parquet")
    assert done.out.splitlines() == [
        f"{target} had the layout of an older version, and was written again",
        f"wrote 2 runs to {target}",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{run}"], "no target was given"),
        (["{run}", "a.csv", "b.csv"], "3 paths were given"),
        (["{run}", "--parquet"], "only one path was given"),
        (["nowhere", "set", "--parquet"], "There is no run at 'nowhere'"),
        (["{run}", "x.csv", "--keep-deleted"], "--keep-deleted was given without --parquet"),
        (["{run}", "x.xlsx"], "ends in '.xlsx'"),
        (["{run}", "nowhere/x.csv"], "can't be written"),
        (["{run}", "x.csv", "--what", "mean"], "stat is 'mean'"),
    ],
)
def test_what_is_missing_is_said(runs, command, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = command("export", *(argument.format(run=runs / "good") for argument in arguments))
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert list(tmp_path.iterdir()) == []
