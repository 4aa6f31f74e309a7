"""Histories recorded by others become runs, or a clear error; never a wrong number."""

import contextlib
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import read, write
from gradwatch.testing import replaced, steady
from gradwatch.views.console.report import report
from gradwatch.views.console.screen import Screen

NORMS = replaced(steady(500), {100: 40.0, 200: math.nan, 300: math.inf})


def imported(paths, tmp_path, **options):
    write(read(paths, **options), tmp_path / "run")
    return Run(tmp_path / "run")


def assert_norms(run, norms=NORMS, every=1):
    steps = run.steps()
    assert steps.index.tolist() == [every * i for i in range(len(norms))]
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-6)
    return steps


# ------------------------------------------------------------------------------------ event files


def write_events(folder, norms=NORMS, tag="train/grad_norm", first=0, new_style=False):
    with SummaryWriter(str(folder)) as writer:
        for step, norm in enumerate(norms):
            writer.add_scalar(tag, norm, first + step, new_style=new_style)
            writer.add_scalar("train/loss", 1.0 / (1 + step), first + step, new_style=new_style)
            writer.add_scalar("train/lr", 0.1, first + step, new_style=new_style)
            writer.add_scalar("accuracy", 0.5, first + step)


@pytest.mark.parametrize("new_style", [False, True])
def test_event_files_as_pytorch_writes_them(tmp_path, new_style):
    write_events(tmp_path / "logs", new_style=new_style)
    steps = assert_norms(imported([tmp_path / "logs"], tmp_path))
    assert steps["loss"].iloc[1] == pytest.approx(0.5)
    assert steps["learning_rate"].iloc[7] == pytest.approx(0.1)
    assert steps["wall_time"].iloc[0] > 1.6e9


def test_the_detectors_judge_what_was_imported(tmp_path):
    write_events(tmp_path / "logs")
    kinds = {(event.kind, event.step) for event in imported([tmp_path / "logs"], tmp_path).events()}
    assert {("spike", 100), ("nonfinite", 200)} <= kinds


def test_of_a_training_that_was_resumed_the_later_file_stands(tmp_path):
    write_events(tmp_path / "logs", [1.0] * 400)
    first = next((tmp_path / "logs").iterdir())
    first.rename(tmp_path / "logs" / "events.out.tfevents.1.a")
    write_events(tmp_path / "logs", [2.0] * 300, first=300)
    norms = imported([tmp_path / "logs"], tmp_path).steps()["total_norm"]
    assert norms.tolist() == [1.0] * 300 + [2.0] * 300


def test_a_tag_is_named_where_it_can_not_be_told(tmp_path):
    write_events(tmp_path / "logs", tag="g/all")
    with pytest.raises(CannotImport, match=r"'accuracy', 'g/all'.*--norm"):
        read([tmp_path / "logs"])
    assert_norms(imported([tmp_path / "logs"], tmp_path, norm="g/all"))
    with pytest.raises(CannotImport, match="no 'nothing'"):
        read([tmp_path / "logs"], norm="nothing")


def test_an_event_file_that_is_cut_off_gives_what_is_whole(tmp_path):
    write_events(tmp_path / "logs")
    (file,) = (tmp_path / "logs").iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    norms = imported([tmp_path / "logs"], tmp_path).steps()["total_norm"]
    assert 450 < len(norms) < 500
    np.testing.assert_allclose(norms, NORMS[: len(norms)], rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 50])
def test_what_is_no_event_file_is_refused(tmp_path, content):
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(content)
    with pytest.raises(CannotImport):
        read([file])


# ------------------------------------------------------------------------------ trainer_state.json


def trainer_state(**changes):
    log = [
        {"epoch": 0.1 * i, "grad_norm": 1.0 + 0.01 * i, "learning_rate": 1e-4, "loss": 2.0, "step": 10 * (i + 1)}
        for i in range(50)
    ]
    log.append({"eval_loss": 1.0, "step": 500})
    return {"log_history": log, "global_step": 500, **changes}


def test_the_log_of_a_hugging_face_trainer(tmp_path):
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps(trainer_state()))
    made = write(read([file]), tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == [10 * (i + 1) for i in range(50)]
    np.testing.assert_allclose(steps["total_norm"], 1 + 0.01 * np.arange(50))
    assert Run(tmp_path / "run").meta()["moment"] == "before clipping"
    assert made.every == 10
    assert any("every 10 steps" in note for note in made.notes)
    # A checkpoint's folder stands for the file in it.
    assert_norms_equal = imported([tmp_path], tmp_path / "again").steps()["total_norm"]
    assert assert_norms_equal.tolist() == steps["total_norm"].tolist()


def test_norms_that_are_not_finite_are_kept(tmp_path):
    state = trainer_state()
    state["log_history"][5]["grad_norm"], state["log_history"][6]["grad_norm"] = math.nan, math.inf
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    norms = imported([tmp_path / "trainer_state.json"], tmp_path).steps()["total_norm"].to_numpy()
    assert math.isnan(norms[5])
    assert norms[6] == math.inf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"log_history": 3}',
        '{"log_history": []}',
        '{"log_history": [{"loss": 1, "step": 1}]}',
        '{"log_history": [{"grad_norm": "x", "step": 1}]}',
        '{"log_history": [{"grad_norm": 1, "step": -1}]}',
        '{"log_history": [{"grad_norm": 1, "step": "1"}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_trainer_state_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CannotImport):
        read([tmp_path / "a.json"])


# ----------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_with_a_step_and_a_norm(tmp_path, ending):
    frame = pd.DataFrame({"step": range(500), "Grad-Norm": NORMS, "loss": 0.5, "lr": 0.01})
    file = tmp_path / f"history.{ending}"
    frame.to_csv(file, index=False, na_rep="NaN") if ending == "csv" else frame.to_parquet(file)
    steps = assert_norms(imported([file], tmp_path))
    assert (steps["loss"] == 0.5).all()
    assert (steps["learning_rate"] == 0.01).all()


def test_what_weights_and_biases_exports(tmp_path):
    """Empty cells where a series was not logged, and a column each for the least and the largest."""
    lines = [
        ",".join(f'"{name}"' for name in ("Step", *(f"owl-7 - train/grad_norm{end}" for end in ("", "__MIN", "__MAX"))))
    ]
    lines += [f'"{step}","{1 + step}","1","9"' if step % 5 == 0 else f'"{step}","","",""' for step in range(100)]
    (tmp_path / "wandb.csv").write_text("\n".join(lines))
    steps = imported([tmp_path / "wandb.csv"], tmp_path).steps()
    assert steps.index.tolist() == list(range(0, 100, 5))
    assert steps["total_norm"].tolist() == [1.0 + step for step in range(0, 100, 5)]


def test_of_several_runs_in_one_table_one_is_named(tmp_path):
    pd.DataFrame({"Step": range(9), "a - grad_norm": 1.0, "b - grad_norm": 2.0}).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(CannotImport, match="several series"):
        read([tmp_path / "w.csv"])
    norms = imported([tmp_path / "w.csv"], tmp_path, norm="b - grad_norm").steps()["total_norm"]
    assert (norms == 2.0).all()


def test_without_a_column_of_steps_rows_are_counted_and_it_is_said(tmp_path):
    pd.DataFrame({"total_norm": NORMS}).to_csv(tmp_path / "n.csv", index=False, na_rep="nan")
    history = read([tmp_path / "n.csv"])
    assert "rows are counted" in history.notes[0]
    write(history, tmp_path / "run")
    assert_norms(Run(tmp_path / "run"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,grad_norm\n",
        "step,grad_norm\n1,large\n",
        "step,grad_norm\n0.5,1\n",
        "step,grad_norm\n-1,1\n",
        "step,grad_norm\n,1\n",
        "step,grad_norm\nnan,1\n",
        "a,b\n1,2\n",
        '"\n',
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(CannotImport):
        write(read([tmp_path / "a.csv"]), tmp_path / "run")
    assert not (tmp_path / "run" / "gradwatch.db").exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.csv", "a.json", "a.parquet", "events.out.tfevents.1"):
        (folder / name).write_bytes(content)
        with contextlib.suppress(CannotImport):
            write(read([folder / name]), folder / f"run-{name}")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(min_value=0) | st.just(math.nan), min_size=1, max_size=50))
def test_any_norms_come_back_as_they_were(tmp_path_factory, norms):
    folder = tmp_path_factory.mktemp("norms")
    pd.DataFrame({"step": range(len(norms)), "grad_norm": norms}).to_csv(folder / "a.csv", index=False, na_rep="nan")
    write(read([folder / "a.csv"]), folder / "run")
    np.testing.assert_array_equal(Run(folder / "run").steps()["total_norm"], norms)


# --------------------------------------------------------------------------------- files and runs


def test_wrong_paths_are_said(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for paths, message in (
        ([tmp_path / "nowhere"], "is not there"),
        ([tmp_path / "notes.txt"], "no known kind"),
        ([tmp_path / "empty"], "no event file"),
    ):
        with pytest.raises(CannotImport, match=message):
            read(paths)


def test_a_run_that_is_there_is_left_as_it_is(tmp_path):
    pd.DataFrame({"grad_norm": [1.0] * 5}).to_csv(tmp_path / "n.csv", index=False)
    history = read([tmp_path / "n.csv"])
    write(history, tmp_path / "run")
    before = (tmp_path / "run" / "gradwatch.db").read_bytes()
    with pytest.raises(CannotImport, match="run already"):
        write(history, tmp_path / "run")
    assert (tmp_path / "run" / "gradwatch.db").read_bytes() == before


def test_steps_in_any_order_and_twice(tmp_path):
    (tmp_path / "n.csv").write_text("step,grad_norm\n5,5\n1,1\n3,3\n1,9\n")
    made = write(read([tmp_path / "n.csv"]), tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    assert dict(steps["total_norm"]) == {1: 9.0, 3: 3.0, 5: 5.0}
    assert "1 steps are there more than once" in made.notes[0]


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
