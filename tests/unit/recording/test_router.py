"""Hooks reach the recording while it is open and from the thread that trains; a fault of ours ends it alone."""

import copy
import logging
import signal
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch import Run

from .nets import backward, make, train, train_scaled

FAULTS = [
    "gradwatch.recording.tracker.measure",
    "gradwatch.recording.weight_sampler.norms",
    "gradwatch.recording.clip_audit.norm_clipping",
]


@pytest.mark.parametrize("where", [*FAULTS, "gradwatch.store.writer.StoreWriter.append"])
def test_a_fault_of_ours_leaves_training_untouched_and_is_reported_once(tmp_path, monkeypatch, caplog, where):
    model, optimizer = make()
    train(model, optimizer, 30, "clipped by norm")
    expected = copy.deepcopy(model.state_dict())

    def broken(*args, **kwargs):
        raise RuntimeError("a planted fault")

    model, optimizer = make()
    with (
        caplog.at_level(logging.WARNING, "gradwatch"),
        gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=10) as watch,
    ):
        train(model, optimizer, 3, "clipped by norm", watch)
        monkeypatch.setattr(where, broken)
        for _ in range(27):
            train(model, optimizer, 1, "clipped by norm", watch)
            watch.flush()  # a fault of the recorder is noticed while the training runs
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "a planted fault" in messages[0]
    assert "(recording-stopped)" in messages[0]
    assert not optimizer._optimizer_step_pre_hooks, "nothing of ours stays behind"


def test_an_exception_of_the_loop_passes_and_ends_the_recording(tmp_path):
    model, optimizer = make()
    with pytest.raises(ZeroDivisionError), gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 3)
        backward(model, optimizer)
        clip_grad_norm_(model.parameters(), 0.5)
        _ = 1 / 0
    run = Run(tmp_path / "run")
    assert run.attempts()[0].reason == "exception ZeroDivisionError"
    # what was measured for the step that did not happen is kept, and said to be skipped
    assert run.steps()["skipped"].tolist() == [False, False, False, True]


def test_detaching_takes_everything_out(tmp_path):
    model, optimizer = make()
    cells = [cell.cell_contents for cell in clip_grad_norm_.__closure__]
    handler = signal.getsignal(signal.SIGTERM)
    watch = gradwatch.attach(model, optimizer, tmp_path / "run")
    train(model, optimizer, 2)
    watch.close()
    watch.close()
    train(model, optimizer, 2)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert [cell.cell_contents for cell in clip_grad_norm_.__closure__] == cells
    assert signal.getsignal(signal.SIGTERM) is handler
    assert len(Run(tmp_path / "run").steps()) == 2


def test_a_scaler_may_step_an_optimizer_that_nobody_watches(tmp_path):
    model, optimizer = make()
    other, stranger = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train_scaled(other, stranger, "after unscaling", True)
        train(model, optimizer, 2)
    assert len(Run(tmp_path / "run").steps()) == 2


def test_a_torch_that_clips_in_an_unknown_way_is_said_and_recorded_all_the_same(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("torch.nn.utils.clip_grad.clip_grad_norm_", lambda parameters, max_norm: None)
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    assert "clip-calls-unseen" in caplog.text
    assert len(Run(tmp_path / "run").steps()) == 2


# ------------------------------------------------------------------------------------- threads


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def step(model, optimizer, *, meanwhile=None):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    if meanwhile is not None:
        in_a_thread(meanwhile)
    optimizer.step()


def recorded(tmp_path, *, meanwhile):
    """Five steps, each with something that another thread does between backward and step."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            step(model, optimizer, meanwhile=lambda: meanwhile(model))
    run = gradwatch.Run(tmp_path)
    return run.steps(), run.meta(), run.events()


def test_a_clip_call_of_nothing_in_another_thread_is_no_fault_of_this_training(tmp_path):
    steps, _, events = recorded(
        tmp_path, meanwhile=lambda _: nn.utils.clip_grad_norm_([nn.Parameter(torch.ones(1))], 1.0)
    )
    assert len(steps) == 5
    assert [event.kind for event in events if event.kind == "ineffective-clipping"] == []


def test_a_backward_in_another_thread_adds_no_loss(tmp_path):
    def other(_):
        weight = nn.Parameter(torch.ones(1))
        (weight * 1000).sum().backward()

    steps, meta, _ = recorded(tmp_path, meanwhile=other)
    assert (steps["loss"].abs() < 100).all()
    assert (meta["carried_steps.0"], meta["changed_steps.0"]) == ("0", "0")


def test_a_clip_call_of_our_gradients_counts_in_whatever_thread(tmp_path):
    steps, meta, _ = recorded(tmp_path, meanwhile=lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    assert (steps["max_norm"] == 0.1).all()
    assert meta["changed_steps.0"] == "0", "clipping is no change of the script's own"


def test_the_training_may_move_to_another_thread(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path):
        step(model, optimizer)
        in_a_thread(lambda: [step(model, optimizer) for _ in range(4)])
    run = gradwatch.Run(tmp_path)
    assert len(run.steps()) == 5
    assert run.meta()["changed_steps.0"] == "0"
