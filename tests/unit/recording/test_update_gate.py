"""What is done to an update: the policy and the skipping, while a recording runs and when it has ended."""

from __future__ import annotations

import logging
import math
import shutil
import time

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch import Run
from gradwatch.clip import AutoClip, NormClip, ValueClip
from gradwatch.measure import measure
from gradwatch.recording.notices import Notices
from gradwatch.recording.parameters import ParameterTable
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.update_gate import UpdateGate


def make(gradient=(3.0, 4.0), make_optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **options):
    """A gate before an optimizer of one weight with this gradient, and the step measured of it."""
    weight = nn.Parameter(torch.zeros(len(gradient)))
    weight.grad = torch.tensor(gradient)
    model = nn.ParameterDict({"w": weight})
    optimizer = make_optimizer(model.parameters())
    weight.optimizer = optimizer  # keeps it alive, as the script does
    table = ParameterTable(model, optimizer)
    options = {"policy": None, "skip_nonfinite": False, "only_unclipped": False} | options
    gate = UpdateGate(optimizer, table, Notices(), **options)
    return gate, weight, PendingStep(step=0, measured=measure(table.gradients()))


def act(gate, pending):
    gate.clip(pending, gate.gradients())
    gate.skip_nonfinite(pending)


# ------------------------------------------------------------------------------------ the gate


def test_without_a_policy_nothing_is_done():
    gate, weight, pending = make()
    act(gate, pending)
    assert not gate.acts
    assert weight.grad.tolist() == [3.0, 4.0]
    assert pending.clippings == []


def test_a_policy_clips_once_and_writes_down_what_it_did():
    gate, weight, pending = make(policy=NormClip(1.0))
    act(gate, pending)
    act(gate, pending)
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    (clipping,) = pending.clippings
    assert (clipping.max_norm, clipping.coefficient) == (1.0, pytest.approx(1 / 5, rel=1e-5))


def test_a_policy_takes_gradients_that_the_loop_has_clipped_as_they_are_now():
    gate, weight, pending = make(policy=NormClip(1.0))
    clip_grad_norm_([weight], 2.0)
    pending.add_clipping(gradwatch.clip.Clipping(max_norm=2.0, coefficient=0.4))
    act(gate, pending)
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert pending.clippings[1].coefficient == pytest.approx(1 / 2, rel=1e-5)


def test_a_step_that_the_loop_has_clipped_can_be_left_to_it():
    gate, weight, pending = make(policy=NormClip(1.0), only_unclipped=True)
    pending.add_clipping(gradwatch.clip.Clipping(max_norm=2.0))
    act(gate, pending)
    assert weight.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_left_out(bad):
    gate, weight, pending = make((1.0, bad), skip_nonfinite=True)
    act(gate, pending)
    assert weight.grad is None
    assert pending.skipped


@pytest.mark.parametrize("gradient", [(1.0, 2.0), (0.0, 0.0), (3e38, 3e38)])
def test_an_update_that_is_finite_is_not(gradient):
    gate, weight, pending = make(gradient, skip_nonfinite=True)
    act(gate, pending)
    assert weight.grad is not None
    assert not pending.skipped


def test_a_fused_optimizer_whose_gradients_are_scaled_is_not_clipped_and_that_is_said_once(caplog):
    gate, weight, pending = make(make_optimizer=lambda p: torch.optim.Adam(p, fused=True), policy=NormClip(1.0))
    weight.optimizer.grad_scale = torch.tensor(8.0)
    act(gate, pending)
    act(gate, pending)
    assert weight.grad.tolist() == [3.0, 4.0]
    assert caplog.text.count("clip-not-applied") == 1


def test_protection_alone_clips_and_skips():
    gate, weight, _ = make(policy=NormClip(1.0), skip_nonfinite=True)
    gate.protect(0)
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    weight.grad = torch.tensor([math.nan, 0.0])
    gate.protect(1)
    assert weight.grad is None


def test_what_is_not_asked_for_is_not_said(caplog):
    gate, *_ = make()
    gate.say_not_applied("there is no moment for it")
    assert caplog.text == ""


# ----------------------------------------------------- protection holds when the recording has ended


class Training:
    """Gradients that explode, and what the optimizer is given of them."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)

    def step(self, poison=False):
        self.optimizer.zero_grad()
        (self.model(torch.full((8, 4), 50.0)) * 100).sum().backward()
        if poison:
            self.model.bias.grad.fill_(math.nan)
        self.optimizer.step()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item() if gradients else None


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def broken(*args, **kwargs):
    raise RuntimeError("a planted fault")


def test_clipping_goes_on_when_the_run_is_removed(tmp_path, caplog):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run", clip=NormClip(1.0)) as watch:
        for _ in range(10):
            assert training.step() == pytest.approx(1.0, rel=1e-4)
        assert watch.flush()
        shutil.rmtree(tmp_path / "run")
        training.step()
        watch.flush(timeout=1.0)
        for _ in range(10):
            assert training.step() == pytest.approx(1.0, rel=1e-4)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "the training goes on, and is clipped and skipped as before" in messages[0]
    assert "(recording-stopped)" in messages[0]


FAULTS = [
    "gradwatch.recording.tracker.measure",
    "gradwatch.recording.weight_sampler.norms",
    "gradwatch.recording.tracker.learning_rates_of",
    "gradwatch.recording.gradients.GradientHistory.before_backward",
    "gradwatch.recording.losses.StepLosses.take",
    "gradwatch.recording.parameters.ParameterTable.refresh",
    "gradwatch.recording.clip_audit.ClipAudit.judge",
    "gradwatch.store.writer.StoreWriter.append",
    "gradwatch.recording.router.loss_value",
]


@pytest.mark.parametrize("where", FAULTS)
def test_every_update_is_protected_whatever_fails(tmp_path, monkeypatch, caplog, where):
    """The one in which the fault comes included."""
    training = Training()
    options = {"clip": NormClip(1.0), "skip_nonfinite": True, "weights_every": 3}
    with (
        caplog.at_level(logging.WARNING, "gradwatch"),
        gradwatch.attach(training.model, training.optimizer, tmp_path / "run", **options) as watch,
    ):
        for _ in range(5):
            assert training.step() == pytest.approx(1.0, rel=1e-4)
        monkeypatch.setattr(where, broken)
        for step in range(20):
            assert training.step() == pytest.approx(1.0, rel=1e-4)
            watch.log(loss=1.0)
            if step == 10:
                watch.flush(timeout=2.0)
        assert training.step(poison=True) is None
        assert training.step() == pytest.approx(1.0, rel=1e-4)
    stopped = [r.getMessage() for r in caplog.records if "(recording-stopped)" in r.getMessage()]
    assert len(stopped) == 1, [r.getMessage() for r in caplog.records]
    assert "a planted fault" in stopped[0]


def test_where_clipping_itself_fails_that_is_said(tmp_path, monkeypatch, caplog):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run", clip=NormClip(1.0)):
        training.step()
        monkeypatch.setattr("gradwatch.clip.policy.clip_parts", broken)
        for _ in range(3):
            training.step()
    messages = [record.getMessage() for record in caplog.records]
    assert ["(recording-stopped)" in m for m in messages] == [True, False]
    assert "clipped" not in messages[0]
    assert "gradwatch did not clip: RuntimeError: a planted fault (clip-not-applied)" in messages[1]
    assert not training.optimizer._optimizer_step_pre_hooks, "nothing of ours stays behind"


class ClampsDense(ValueClip):
    """PyTorch has no kernel that clamps a sparse gradient."""

    def clip(self, parameters, measured):
        torch._foreach_clamp_max_([parameter.grad for parameter in parameters], self.clip_value)


def test_of_an_operator_without_a_kernel_one_line_is_said_and_not_pytorchs_list_of_all(tmp_path, caplog):
    model = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=ClampsDense(1.0)):
        model(torch.tensor([1, 1])).sum().backward()
        optimizer.step()
    messages = [record.getMessage() for record in caplog.records]
    assert "did not clip: NotImplementedError: Could not run" in messages[-1]
    assert all("\n" not in message and len(message) < 1000 for message in messages)


def test_a_policy_with_a_history_goes_on_with_it(tmp_path, monkeypatch):
    """The weights are those of a training whose recording did not end."""

    def weights(fails):
        training = Training()
        with (
            monkeypatch.context() as patched,
            gradwatch.attach(training.model, training.optimizer, tmp_path / str(fails), clip=AutoClip(10)) as watch,
        ):
            for step in range(40):
                if fails and step == 20:
                    watch.flush()
                    patched.setattr("gradwatch.store.writer.StoreWriter.append", broken)
                training.step()
                if fails and step == 21:  # the step before has reached the thread that writes
                    wait_for(lambda: watch._recording._sink.fault is not None)
            assert watch._recording.state == ("protecting" if fails else "recording")
        return training.model.weight.detach()

    assert torch.equal(weights(True), weights(False))


def test_without_protection_everything_of_ours_is_taken_out(tmp_path, monkeypatch):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run"):
        training.step()
        monkeypatch.setattr("gradwatch.recording.tracker.measure", broken)
        training.step()
        assert not training.optimizer._optimizer_step_pre_hooks


def test_a_detector_that_fails_ends_neither(tmp_path, monkeypatch, caplog):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run", clip=NormClip(1.0)) as watch:
        monkeypatch.setattr("gradwatch.detect.Spike.update", broken)
        for _ in range(10):
            assert training.step() == pytest.approx(1.0, rel=1e-4)
        assert watch.flush()
    assert len(Run(tmp_path / "run").steps()) == 10
    assert "detectors-stopped" in caplog.text
