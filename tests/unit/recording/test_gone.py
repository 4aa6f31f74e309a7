"""Optimizers that the script lets go of: nothing of them is kept but their records."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run


@pytest.fixture
def no_collector():
    """What is freed here is freed at once, not by the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def trained(watch, name, steps=3):
    """A model and its optimizer, recorded for some steps."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    watch.add(name, model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return model, optimizer


def begun(run):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, gradwatch.attach(model, optimizer, run)


def test_an_optimizer_and_its_model_go_when_the_script_lets_go_of_them(tmp_path, no_collector):
    *_kept, watch = begun(tmp_path / "run")
    with watch:
        model, optimizer = trained(watch, "fold")
        gone = [weakref.ref(thing) for thing in (model, optimizer, model.weight, model.weight.grad)]
        del model, optimizer
        assert [one() for one in gone] == [None] * 4


def test_its_last_step_is_recorded_and_what_was_clipped_and_not_stepped_is_an_attempt(tmp_path):
    *_kept, watch = begun(tmp_path / "run")
    with watch:
        model, optimizer = trained(watch, "fold", steps=5)
        model(torch.ones(2, 3)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        del model, optimizer
        assert watch.steps == 6
        assert watch.optimizers == ["0", "fold"]
    steps = Run(tmp_path / "run").steps(optimizer="fold")
    assert steps["skipped"].tolist() == [False] * 5 + [True]
    assert (steps["max_norm"] == 0.1).all()


def test_optimizers_in_a_cycle_are_recorded_to_their_end_as_well(tmp_path):
    *_kept, watch = begun(tmp_path / "run")
    with watch:
        model, optimizer = trained(watch, "fold", steps=4)
        model.trained_by = optimizer
        optimizer.trains = model
        gone = weakref.ref(optimizer)
        del model, optimizer
        gc.collect()
        assert gone() is None
    assert len(Run(tmp_path / "run").steps(optimizer="fold")) == 4


def test_the_only_optimizer_may_go_before_the_watch_is_closed(tmp_path):
    model, optimizer, watch = begun(tmp_path / "run")
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    del model, optimizer
    watch.log(loss=1.0)
    assert watch.flush()
    assert watch.steps == 3
    assert watch.models == []
    watch.close()
    assert len(Run(tmp_path / "run").steps()) == 3


def test_the_recording_of_the_others_goes_on(tmp_path):
    model, optimizer, watch = begun(tmp_path / "run")
    with watch:
        for fold in range(4):
            trained(watch, f"fold {fold}")
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        assert len(watch._recording.loops) == 1
        assert len(watch._recording.loops.names) == 5
    run = Run(tmp_path / "run")
    assert len(run.steps(optimizer="0")) == 4
    assert [len(run.steps(optimizer=f"fold {fold}")) for fold in range(4)] == [3] * 4


def test_a_policy_clips_until_the_optimizer_goes(tmp_path, no_collector):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=gradwatch.clip.NormClip(0.5)):
        for _ in range(3):
            optimizer.zero_grad()
            (100 * model(torch.ones(1, 2)).sum()).backward()
            optimizer.step()
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            assert float(norm) == pytest.approx(0.5, rel=1e-4)
        gone = weakref.ref(optimizer)
        del model, optimizer
        assert gone() is None


def test_an_optimizer_may_go_after_the_end(tmp_path, no_collector):
    model, optimizer, watch = begun(tmp_path / "run")
    watch.close()
    gone = weakref.ref(optimizer)
    del model, optimizer
    assert gone() is None
