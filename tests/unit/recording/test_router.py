"""Only the thread that trains reports on the training; another thread trains something else."""

import threading

import torch
from torch import nn

import gradwatch


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
    assert [event.kind for event in events if event.kind == "ineffective"] == []


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
