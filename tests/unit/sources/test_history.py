"""A history becomes a run, whole or not at all."""

import io
import math

import pandas as pd
import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.errors import CannotImport, StoreNotWritable
from gradwatch.sources import History, read, write
from gradwatch.sources.history import Point
from gradwatch.sources.names import pick
from gradwatch.store import LARGEST
from gradwatch.testing import replaced, steady
from gradwatch.views.console.report import report
from gradwatch.views.console.screen import Screen


def test_a_run_that_is_there_is_left_as_it_is(tmp_path):
    pd.DataFrame({"grad_norm": [1.0] * 5}).to_csv(tmp_path / "n.csv", index=False)
    history = read([tmp_path / "n.csv"])
    write(history, tmp_path / "run")
    before = (tmp_path / "run" / "gradwatch.db").read_bytes()
    with pytest.raises(CannotImport, match="already a run"):
        write(history, tmp_path / "run")
    assert (tmp_path / "run" / "gradwatch.db").read_bytes() == before


def test_steps_in_any_order_and_twice(tmp_path):
    (tmp_path / "n.csv").write_text("step,grad_norm\n5,5\n1,1\n3,3\n1,9\n")
    made = write(read([tmp_path / "n.csv"]), tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    assert dict(steps["total_norm"]) == {1: 9.0, 3: 3.0, 5: 5.0}
    assert any("1 step is there more than once" in note for note in made.notes)


def test_a_norm_below_0_is_no_norm(tmp_path):
    made = write(history((0, 1.0), (1, -1.0), (2, -0.0), (3, math.nan)), tmp_path / "run")
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 2, 3]
    assert any(note.startswith("1 row left out: the norm is below 0") for note in made.notes)
    with pytest.raises(CannotImport, match="no step with a gradient norm"):
        write(history((0, -1.0)), tmp_path / "none")


def test_everything_that_reads_runs_reads_imported_ones(tmp_path):
    norms = replaced(steady(1500), {100: 40.0})
    pd.DataFrame({"step": range(1500), "grad_norm": norms}).to_csv(tmp_path / "n.csv", index=False)
    write(read([tmp_path / "n.csv"]), tmp_path / "run", "AdamW", "before clipping")
    run = Run(tmp_path / "run")
    assert run.summary().optimizer_class == "AdamW"
    assert run.layers("norm").empty or run.layers("norm").shape[1] == 0
    assert run.recommend().refused is None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report(run.summary(), Screen.of(console)))
    assert "layers  not recorded" in console.export_text()


def history(*points, **more):
    return History([Point(*point) for point in points], "a file", **more)


@pytest.mark.parametrize("step", [-1, LARGEST + 1, 2**63, 10**400])
def test_a_step_that_no_store_can_hold_leaves_no_run(tmp_path, step):
    with pytest.raises(CannotImport):
        write(history((1, 1.0), (step, 1.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_largest_step_is_kept(tmp_path):
    write(history((0, 1.0), (LARGEST, 2.0)), tmp_path / "run")
    assert Run(tmp_path / "run").steps().index.tolist() == [0, LARGEST]


@pytest.mark.parametrize("wall_time", [math.nan, math.inf, -math.inf, 1e300])
def test_a_time_that_no_calendar_has_is_not_known(tmp_path, wall_time):
    write(history((0, 1.0, None, None, wall_time)), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.steps()["wall_time"].tolist() == [0.0]
    assert run.damaged_rows == 0


def test_a_history_without_a_point_leaves_no_run(tmp_path):
    with pytest.raises(CannotImport, match="holds no step"):
        write(history(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fault_while_writing_leaves_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.store.StoreWriter.append", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(history((1, 1.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_can_not_be_made_is_an_error_with_a_slug(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreNotWritable, match="store-not-writable"):
        write(history((1, 1.0)), tmp_path / "file" / "run")


def test_the_run_is_one_file(tmp_path):
    write(history((1, 1.0)), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["gradwatch.db"]


def test_the_moment_is_that_of_the_history_or_the_one_given(tmp_path):
    write(history((1, 1.0), moment="before clipping"), tmp_path / "a")
    write(history((1, 1.0), moment="before clipping"), tmp_path / "b", moment="after clipping")
    made = write(history((1, 1.0)), tmp_path / "c")
    assert [Run(tmp_path / name).meta()["moment"] for name in "abc"] == ["before clipping", "after clipping", "unknown"]
    assert any("--moment" in note for note in made.notes)


def test_a_series_is_picked_by_its_usual_name():
    assert pick("norm", ["a/GradNorm", "loss"], None, "x") == "a/GradNorm"
    assert pick("loss", ["train/loss", "loss"], None, "x") == "loss"
    assert pick("step", [], None, "x") is None
    with pytest.raises(CannotImport, match="several series"):
        pick("norm", ["a/grad_norm", "b/grad_norm"], None, "x")
    assert pick("norm", ["accuracy"], None, "x") is None
    with pytest.raises(CannotImport, match="no 'y'"):
        pick("loss", ["loss"], "y", "x")


@pytest.mark.parametrize(
    "name",
    [
        *("train_reward", "train/reward", "training_reward", "rewards/mean", "reward/mean", "mean_reward", "rewards"),
        *("rollout/ep_rew_mean", "episode_reward_mean", "env_runners/episode_return_mean", "train/mean_episode_return"),
        *("train_episode_reward", "charts/episodic_return", "Environment/Cumulative Reward", "objective/rlhf_reward"),
    ],
)
def test_the_reward_of_the_training_goes_before_that_of_an_evaluation(name):
    assert pick("reward", ["reward_std", "rewards/chosen", "eval/reward", "eval_mean_reward", name], None, "x") == name


def test_a_series_of_the_training_may_have_that_in_its_name():
    names = ["train_grad_norm", "train_lr", "val_loss", "train_loss", "train_step"]
    found = [pick(kind, names, None, "x") for kind in ("norm", "learning_rate", "loss", "step")]
    assert found == ["train_grad_norm", "train_lr", "train_loss", "train_step"]
    assert pick("norm", ["train_grad_norm", "grad_norm"], None, "x") == "grad_norm"
