"""The recorder in a process of its own writes what the thread writes, row by row, over training loops of every kind."""

import sqlite3
import sys

import pytest
import torch

import gradwatch
from gradwatch.clip import NormClip

from . import test_loops as loops

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")

# What differs between any two recordings: times, processes, and the checksums of rows that hold one.
DIFFERS = {
    "attempt": {"started", "ended", "pid", "process", "crc", "row_crc"},
    "step": {"wall_time", "crc", "row_crc"},
    "detector_state": {"state", "crc", "row_crc"},  # compressed; its events are compared
}


def rows_of(run):
    db = sqlite3.connect(run / "gradwatch.db")
    try:
        found = {}
        for (table,) in db.execute("select name from sqlite_master where type = 'table'").fetchall():
            columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
            kept = [f'"{name}"' for name in columns if name not in DIFFERS.get(table, ())]
            found[table] = sorted(map(repr, db.execute(f"select {', '.join(kept)} from {table}")))
        return found
    finally:
        db.close()


def both(tmp_path, train, **options):
    """Train twice from the same state, recorded by the thread and by the process, and compare the stores."""
    weights = []
    for recorder in ("thread", "process"):
        torch.manual_seed(0)
        weights.append(train(tmp_path / recorder, recorder=recorder, **options))
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True)), "the recorder changes no weight"
    thread, process = rows_of(tmp_path / "thread"), rows_of(tmp_path / "process")
    assert thread.keys() == process.keys()
    for table, rows in thread.items():
        assert process[table] == rows, table
    assert thread["step"], "something was recorded"
    return thread


def weights_of(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


LOOPS = [*loops.INEFFECTIVE, *loops.WITHOUT_FAULT]


@pytest.mark.parametrize("logs", ["never", "after its step", "before its step"])
def test_every_loop_of_an_optimizer(tmp_path, logs):
    """All loops in one recording of many optimizers, so that the process starts once."""

    def train(run, **options):
        models = [loops.net() for _ in LOOPS]
        optimizers = {loop.__name__: loops.sgd(model, momentum=0.9) for loop, model in zip(LOOPS, models, strict=True)}
        with gradwatch.attach(torch.nn.ModuleList(models), optimizers, run, weights_every=2, **options) as watch:
            for step in range(6):
                for loop, model in zip(LOOPS, models, strict=True):
                    if logs == "before its step":
                        watch.log(loss=step + 0.5, optimizer=loop.__name__)
                    loop(model, optimizers[loop.__name__])
                    if logs == "after its step":
                        watch.log(loss=float("nan") if step == 4 else step, optimizer=loop.__name__)
        return [weight for model in models for weight in weights_of(model)]

    rows = both(tmp_path, train)
    assert len(rows["step"]) == 6 * len(LOOPS)
    assert len(rows["weight"]) == 3 * len(LOOPS)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    ],
    ids=["Adam", "AdamW fused", "LBFGS"],
)
def test_optimizers_with_a_closure_and_a_policy(tmp_path, make):
    def train(run, **options):
        model = loops.net()
        optimizer = make(model.parameters())
        with gradwatch.attach(model, optimizer, run, clip=NormClip(0.05), **options) as watch:

            def closure():
                optimizer.zero_grad()
                loss = loops.loss_of(model)
                loss.backward()
                watch.gradients_ready(optimizer)
                return loss

            for _ in range(5):
                watch.log(loss=optimizer.step(closure))
        return weights_of(model)

    rows = both(tmp_path, train, weights_every=1)
    assert any("0.05" in row for row in rows["step"]), "the policy clips"


@pytest.mark.parametrize("how", ["plain", "clipped", "in a closure"])
def test_updates_that_are_skipped(tmp_path, how):
    def train(run, recorder):
        model = loops.net()
        optimizer = loops.sgd(model, momentum=0.9)
        with gradwatch.attach(model, optimizer, run, skip_nonfinite=True, recorder=recorder) as watch:

            def closure():
                loss = loops.backward_broken_at_3(model, optimizer, step, how == "clipped")
                watch.gradients_ready(optimizer)
                return loss

            for step in range(8):  # noqa: B007 - the closure reads it
                if how == "in a closure":
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
        return weights_of(model)

    rows = both(tmp_path, train)
    assert any("nonfinite" in row for row in rows["event"])


def test_steps_within_backward(tmp_path):
    def train(run, **options):
        model = loops.net()
        optimizers = loops.step_in_backward(model)
        with gradwatch.attach(model, optimizers, run, **options):
            for _ in range(4):
                loops.loss_of(model).backward()
        return weights_of(model)

    both(tmp_path, train)


def test_a_loop_without_an_optimizer(tmp_path):
    def train(run, **options):
        model = loops.net()
        with gradwatch.attach(model, None, run, **options):
            loops.train_by_hand(model)
        return weights_of(model)

    both(tmp_path, train)


def test_a_gradient_scaler_that_backs_off(tmp_path):
    def train(run, **options):
        model = loops.net()
        optimizer = loops.sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        with gradwatch.attach(model, optimizer, run, **options):
            for _ in range(8):
                optimizer.zero_grad()
                scaler.scale(1000 * loops.loss_of(model)).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
        return weights_of(model)

    rows = both(tmp_path, train)
    assert any(repr(2.0**126) in row for row in rows["step"]), "it backs off"


def test_parameters_that_join_and_an_optimizer_that_joins_in_a_run_that_is_resumed(tmp_path):
    def train(run, recorder):
        model = loops.net()
        optimizer = torch.optim.Adam(model[0].parameters(), lr=0.1)
        with gradwatch.attach(model, optimizer, run, recorder=recorder):
            for _ in range(3):
                loops.clip_between(model, optimizer)
        model = torch.nn.Sequential(*model, torch.nn.Linear(1, 1))
        with gradwatch.attach(model, optimizer, run, recorder=recorder, first_step=2, weights_every=1) as watch:
            for _ in range(3):
                loops.clip_between(model, optimizer)
            optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
            for _ in range(2):
                loops.clip_between(model, optimizer)
            late = loops.sgd(model[3])
            watch.add("late", model, late)
            for _ in range(2):
                loops.clip_between(model, optimizer)
                late.step()
        return weights_of(model)

    rows = both(tmp_path, train)
    assert any("resumed" in row for row in rows["event"])


def test_stop_on_and_on_event_reach_the_training(tmp_path):
    told = []
    model = loops.net()
    optimizer = loops.sgd(model)
    with (
        pytest.raises(gradwatch.GradwatchError, match="training-stopped"),
        gradwatch.attach(
            model, optimizer, tmp_path / "run", recorder="process", stop_on=["nonfinite"], on_event=told.append
        ) as watch,
    ):
        for step in range(100_000):
            optimizer.zero_grad()
            loops.loss_of(model).backward()
            if step == 3:
                model[0].weight.grad[0, 0] = torch.inf
            optimizer.step()
            if step >= 3:
                watch.flush()
    assert [(event.kind, event.step) for event in told] == [("nonfinite", 3)]
    assert gradwatch.Run(tmp_path / "run").summary().ended == "stopped on nonfinite"
