"""Recording beside real training: the numbers against ones computed by hand, and training untouched."""

import copy
import itertools
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip, ValueClip
from gradwatch.errors import BadArgument, GradwatchError, NoParameters, RunInUse, StoreNotWritable
from gradwatch.measure import ZEROS_EVERY, fused
from gradwatch.store import StoreReader
from gradwatch.testing import steady

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}
CLIPS = {
    "plain": lambda p: None,
    "clipped by norm": lambda p: clip_grad_norm_(p, 0.5),
    "clipped by value": lambda p: clip_grad_value_(p, 0.05),
    "a generator clipped by norm": lambda p: clip_grad_norm_((q for q in p), 0.5),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 5, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(5, 1)

    def forward(self, x):
        return self.out(self.dropout(self.rnn(x)[0][:, -1]))


def make(optimizer="SGD"):
    torch.manual_seed(0)
    model = Net()
    return model, OPTIMIZERS[optimizer](model.parameters())


def backward(model, optimizer):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 4, 3)).square().mean()
    loss.backward()
    return loss


def train(model, optimizer, steps, clip="plain", watch=None, each=None):
    for step in range(steps):
        loss = backward(model, optimizer)
        if each is not None:
            each(step)
        CLIPS[clip](list(model.parameters()))
        optimizer.step()
        if watch is not None:
            watch.log(loss=loss)


# ------------------------------------------------------------------------------- training untouched


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_equal_bit_for_bit(tmp_path, optimizer, clip):
    """Weights, optimizer state and random state after 50 steps, with and without us."""

    def final(run):
        model, opt = make(optimizer)
        if run is None:
            train(model, opt, 50, clip)
        else:
            with gradwatch.attach(model, opt, run) as watch:
                train(model, opt, 50, clip, watch)
        return model.state_dict(), opt.state_dict()["state"], torch.get_rng_state()

    weights, state, random = final(None)
    weights2, state2, random2 = final(tmp_path / "run")
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert all(torch.equal(state[i][k], state2[i][k]) for i in state for k in state[i] if state[i][k] is not None)
    assert torch.equal(random, random2)
    assert len(Run(tmp_path / "run").steps()) == 50


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
            time.sleep(0.01)
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


# --------------------------------------------------------------------------------- the right numbers


@pytest.mark.parametrize("clip", CLIPS)
def test_every_number_is_that_of_the_gradient_before_clipping(tmp_path, clip):
    model, optimizer = make()
    names = [name for name, _ in model.named_parameters()]
    expected = []

    def keep(step):
        grads = [p.grad.double().numpy().ravel() for p in model.parameters()]
        row = {"total_norm": np.linalg.norm(np.concatenate(grads)), "entries": np.concatenate(grads)}
        row["norm"] = [np.linalg.norm(g) for g in grads]
        row["abs_max"] = [np.abs(g).max() for g in grads]
        row["zeros"] = [(g == 0).sum() for g in grads]
        expected.append(row)

    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 20, clip, watch, keep)

    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(20))
    np.testing.assert_allclose(steps["total_norm"], [row["total_norm"] for row in expected], rtol=1e-6)
    for stat in ("norm", "abs_max", "zeros"):
        frame = run.layers(stat)
        assert frame.columns.tolist() == names
        every = 1 if stat != "zeros" or fused.is_available() else ZEROS_EVERY
        assert frame.index.tolist() == list(range(0, 20, every))
        np.testing.assert_allclose(frame, [row[stat] for row in expected[::every]], rtol=1e-6, err_msg=stat)
    assert (run.layers("nonfinite") == 0).all(axis=None)
    if "norm" in clip:
        coefs = [min(1.0, 0.5 / (row["total_norm"] + 1e-6)) for row in expected]
        np.testing.assert_allclose(steps["clip_coef"], coefs, rtol=1e-6)
        assert (steps["max_norm"] == 0.5).all()
        assert steps["clipped"].tolist() == [coef < 1 for coef in coefs]
    elif "value" in clip:
        cut = [np.mean(np.abs(row["entries"]) > 0.05) for row in expected]
        np.testing.assert_allclose(steps["clipped_fraction"], cut, rtol=1e-12)
        assert (steps["clip_value"] == 0.05).all()
    else:
        assert steps["max_norm"].isna().all()
        assert (steps["clip_coef"] == 1).all()


def test_weights_and_updates_are_sampled(tmp_path):
    model, optimizer = make()
    before, after = [], []
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=10):
        for _ in range(25):
            before.append([p.detach().clone() for p in model.parameters()])
            train(model, optimizer, 1)
            after.append([p.detach().clone() for p in model.parameters()])
    run = Run(tmp_path / "run")
    assert run.layers("weight_norm").index.tolist() == [0, 10, 20]
    for step in (0, 10, 20):
        norms = [w.norm().item() for w in before[step]]
        updates = [(b - a).norm().item() for a, b in zip(before[step], after[step], strict=True)]
        np.testing.assert_allclose(run.layers("weight_norm").loc[step], norms, rtol=1e-6)
        np.testing.assert_allclose(run.layers("update_norm").loc[step], updates, rtol=1e-6)
        np.testing.assert_allclose(run.layers("update_ratio").loc[step], np.divide(updates, norms), rtol=1e-6)


def test_sampling_can_be_turned_off(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=0):
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").layers("update_ratio").empty


def test_learning_rates_of_every_group_at_the_step_that_used_them(tmp_path):
    model = Net()
    groups = [{"params": model.rnn.parameters(), "lr": 0.1}, {"params": model.out.parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            train(model, optimizer, 1)
            scheduler.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["learning_rate"].tolist() == pytest.approx([0.1, 0.05, 0.025])
    assert steps["learning_rate_1"].tolist() == pytest.approx([0.2, 0.1, 0.05])


@pytest.mark.parametrize("order", ["after the step", "before the step"])
def test_the_loss_belongs_to_its_step(tmp_path, order):
    model, optimizer = make()
    losses = []
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for step in range(6):
            loss = backward(model, optimizer)
            if step == 3:
                loss = torch.tensor(math.nan)
            losses.append(loss.item())
            if order == "before the step" and step != 4:
                watch.log(loss=loss)
            optimizer.step()
            if order == "after the step" and step != 4:
                watch.log(loss=loss)
    steps = Run(tmp_path / "run").steps()
    assert steps["loss_logged"].tolist() == [True, True, True, True, False, True]
    np.testing.assert_allclose(steps["loss"].drop(4), [x for i, x in enumerate(losses) if i != 4])


def test_the_losses_of_micro_batches_are_averaged(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for value in (1.0, 3.0):
            backward(model, optimizer)
            watch.log(loss=value)
        optimizer.step()
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("0.5", "loss is '0.5', a str"),
        (torch.ones(3), r"loss has shape (3,); expected one value"),
        (object(), "expected a number or a tensor"),
        (torch.tensor(1j), "complex"),
    ],
)
def test_a_loss_that_is_none_is_said_once_and_left_out(tmp_path, caplog, loss, says):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 1)
        watch.log(loss=loss)
        watch.log(loss=loss)
        train(model, optimizer, 1)
    assert [says in record.getMessage() for record in caplog.records] == [True]
    assert Run(tmp_path / "run").steps()["loss_logged"].tolist() == [False, False]


@pytest.mark.parametrize("value", [1, 2.5, np.float32(0.5), torch.tensor(3.0), torch.tensor([4.0]), True])
def test_any_number_is_a_loss(tmp_path, value):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 1)
        watch.log(loss=value)
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [float(value)]


# ------------------------------------------------------------------------------------ NaN and infinity


def test_the_parameter_with_the_nan_is_found_although_clipping_spreads_it(tmp_path):
    model, optimizer = make()

    def poison(step):
        if step == 5:
            model.rnn.weight_hh_l0.grad[0, 0] = math.nan

    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 6, "clipped by norm", watch, poison)
    run = Run(tmp_path / "run")
    counts = run.layers("nonfinite").loc[5]
    assert counts[counts > 0].to_dict() == {"rnn.weight_hh_l0": 1}
    (event,) = run.events()
    assert (event.step, event.kind, event.parameter) == (5, "nonfinite", "rnn.weight_hh_l0")
    assert math.isnan(run.steps().loc[5, "clip_coef"])


def test_an_overflow_of_torchs_norm_is_told_from_an_infinite_entry(tmp_path):
    """Finite gradients of 1e30: torch's norm is infinite, and it sets every gradient to 0."""
    model, optimizer = make()

    def blow_up(step):
        if step == 3:
            model.out.weight.grad.fill_(1e30)

    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 4, "clipped by norm", watch, blow_up)
    run = Run(tmp_path / "run")
    row = run.steps().loc[3]
    assert row["total_norm"] == pytest.approx(1e30 * math.sqrt(5), rel=1e-6)
    assert row["nonfinite"] == 0
    assert row["clip_coef"] == 0
    event = next(e for e in run.events() if e.kind == "nonfinite")
    assert "norm overflow: every entry is finite (the largest is 1e+30)" in event.message


def test_a_step_refused_by_error_if_nonfinite_is_kept(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(4):
            backward(model, optimizer)
            if step == 2:
                model.out.bias.grad.fill_(math.inf)
            try:
                clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=True)
            except RuntimeError:
                continue
            optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["skipped"].tolist() == [False, False, True, False]
    assert steps["total_norm"].isin([math.inf]).tolist() == [False, False, True, False]


def test_a_loop_that_steps_only_where_the_norm_is_finite_keeps_the_step_it_skipped(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(5):
            backward(model, optimizer)
            if step == 2:
                model.rnn.bias_hh_l0.grad[1] = math.nan
            if torch.isfinite(clip_grad_norm_(model.parameters(), 0.5)):
                optimizer.step()
    run = Run(tmp_path / "run")
    assert run.steps()["skipped"].tolist() == [False, False, True, False, False]
    assert run.steps()["nonfinite"].tolist() == [0, 0, 1, 0, 0]
    (event,) = run.events()
    assert (event.step, event.severity, event.parameter) == (2, "warning", "rnn.bias_hh_l0")


SCALED = [
    (optimizer, clip, unscale)
    for optimizer in ("SGD", "AdamW fused")
    for clip in (None, "before unscaling", "after unscaling")
    for unscale in (False, True)
    if unscale or clip != "after unscaling"
]


def train_scaled(model, optimizer, clip, unscale, watch=None):
    """Eight steps with a GradScaler, an infinity in the fourth; the true norm before clipping of each."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms, scales = [], []
    for step in range(8):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4, 3)).square().mean()
        scaler.scale(loss).backward()
        if step == 3:
            model.out.weight.grad[0, 0] = math.inf
        scales.append(scaler.get_scale())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() / scales[-1])
        if clip == "before unscaling":
            clip_grad_norm_(model.parameters(), 0.25)
        if unscale:
            scaler.unscale_(optimizer)
        if clip == "after unscaling":
            clip_grad_norm_(model.parameters(), 0.25)
        scaler.step(optimizer)
        scaler.update()
        if watch is not None:
            watch.log(loss=float(step))
    return norms, scales


@pytest.mark.parametrize(("optimizer", "clip", "unscale"), SCALED)
def test_with_a_grad_scaler_the_gradient_is_unscaled_and_a_back_off_is_a_skipped_step(
    tmp_path, optimizer, clip, unscale
):
    """Traps 1, 2, 4 and 25, against the norm computed by hand."""
    model, opt = make(optimizer)
    with gradwatch.attach(model, opt, tmp_path / "run") as watch:
        norms, scales = train_scaled(model, opt, clip, unscale, watch)
    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(8))
    assert steps["skipped"].tolist() == [step == 3 for step in range(8)]
    assert steps["loss_scale"].tolist() == scales
    assert scales[3] > scales[4]
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    assert steps["loss"].tolist() == [float(step) for step in range(8)]
    ineffective = [(0, "ineffective-clipping")] if clip == "before unscaling" else []
    assert [(e.step, e.kind) for e in run.events()] == [*ineffective, (3, "loss-scale")]
    if clip is not None:
        made = steps.drop(3)
        unit = made["loss_scale"] if clip == "before unscaling" else 1.0
        np.testing.assert_allclose(made["max_norm"], 0.25 / unit, rtol=1e-6)
        np.testing.assert_allclose(made["clip_coef"], np.minimum(1, made["max_norm"] / made["total_norm"]), rtol=1e-4)


@pytest.mark.parametrize(("optimizer", "clip", "unscale"), SCALED)
def test_with_a_grad_scaler_training_is_equal_bit_for_bit(tmp_path, optimizer, clip, unscale):
    model, opt = make(optimizer)
    train_scaled(model, opt, clip, unscale)
    expected = copy.deepcopy(model.state_dict())
    model, opt = make(optimizer)
    with gradwatch.attach(model, opt, tmp_path / "run"):
        train_scaled(model, opt, clip, unscale)
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())


def test_a_disabled_scaler_changes_nothing(tmp_path):
    model, optimizer = make()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            backward(model, optimizer)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == 3
    assert steps["loss_scale"].isna().all()


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


# ------------------------------------------------------------------------------------------- other loops


def test_absent_gradients_are_not_zero(tmp_path):
    model, optimizer = make()
    model.out.bias.requires_grad_(False)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 60)
    run = Run(tmp_path / "run")
    assert run.layers("norm")["out.bias"].isna().all()
    assert run.layers("zeros")["out.bias"].isna().all()
    assert run.summary().layers[-1].absent_steps == 60
    (event,) = run.events()
    assert (event.kind, event.severity, event.parameter) == ("dead", "info", "out.bias")


def test_clipping_by_value_and_then_by_norm_is_one_step(tmp_path):
    model, optimizer = make()
    norms = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            backward(model, optimizer)
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            clip_grad_value_(model.parameters(), 0.05)
            clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-6)
    assert (steps["clip_value"] == 0.05).all()
    assert (steps["max_norm"] == 0.01).all()


def test_groups_clipped_one_after_the_other_are_measured_before_either(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        backward(model, optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        clip_grad_norm_(model.rnn.parameters(), 0.01)
        clip_grad_norm_(model.out.parameters(), 0.02)
        optimizer.step()
    assert Run(tmp_path / "run").steps()["total_norm"].item() == pytest.approx(norm, rel=1e-6)


def test_clipping_at_every_micro_batch_records_what_the_optimizer_consumes(tmp_path):
    """Trap 5: the gradient accumulates after the first clip; the last measurement counts."""
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        optimizer.zero_grad()
        for _ in range(3):
            model(torch.randn(8, 4, 3)).square().mean().backward()
            last = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
            clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == 1
    assert steps["total_norm"].item() == pytest.approx(last, rel=1e-6)


def test_a_gradient_changed_after_clipping_is_measured_again(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        backward(model, optimizer)
        clip_grad_norm_(model.parameters(), 0.1)
        model.out.bias.grad.fill_(100.0)
        optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].item() == pytest.approx(100.0, rel=1e-4)
    assert steps["max_norm"].isna().all(), "the clipping did not reach what the optimizer consumed"


def test_several_optimizers_are_told_apart(tmp_path):
    model = Net()
    optimizers = {
        "body": torch.optim.SGD(model.rnn.parameters(), 0.1),
        "head": torch.optim.Adam(model.out.parameters()),
    }
    with gradwatch.attach(model, optimizers, tmp_path / "run"):
        for step in range(6):
            model(torch.randn(8, 4, 3)).square().mean().backward()
            optimizers["body"].step()
            if step % 2:
                optimizers["head"].step()
            model.zero_grad()
    run = Run(tmp_path / "run")
    assert run.optimizers == {"body": "SGD", "head": "Adam"}
    assert run.steps("body").index.tolist() == list(range(6))
    assert run.steps("head").index.tolist() == list(range(3))
    assert run.layers("norm", "head").columns.tolist() == ["out.weight", "out.bias"]
    assert run.layers("norm").shape == (6, 6)
    assert run.summary("head").optimizer_class == "Adam"
    with pytest.raises(BadArgument, match="this run has body, head"):
        run.summary("tail")


def test_parameters_that_join_later_are_recorded(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.rnn.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(6):
            if step == 3:
                optimizer.add_param_group({"params": list(model.out.parameters())})
            model.zero_grad()
            model(torch.randn(8, 4, 3)).square().mean().backward()
            optimizer.step()
    frame = Run(tmp_path / "run").layers("norm")
    assert frame.columns.tolist()[-2:] == ["out.weight", "out.bias"]
    assert frame["out.weight"].isna().tolist() == [True] * 3 + [False] * 3


def test_a_closure_is_one_step_with_its_last_gradient(tmp_path):
    """Trap 3: at the start of the step the gradients are those of before, or None."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    x, seen = torch.randn(20, 3), []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        return loss

    last = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1):
        for _ in range(3):
            optimizer.step(closure)
            last.append(seen[-1])
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], last, rtol=1e-6)
    assert (run.layers("update_norm") > 0).all(axis=None)


def test_every_records_each_nth_step(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", every=4, stats=("norm",), weights_every=0):
        train(model, optimizer, 10, "clipped by norm")
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == [0, 4, 8]
    assert (run.steps()["max_norm"] == 0.5).all()
    assert run.layers("zeros").empty
    assert run.summary().steps == 3


def test_clip_gives_the_weights_that_torchs_function_gives(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 30, "clipped by norm")
    expected = copy.deepcopy(model.state_dict())
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.5)):
        train(model, optimizer, 30)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    steps = Run(tmp_path / "run").steps()
    assert (steps["max_norm"] == 0.5).all()
    np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, 0.5 / (steps["total_norm"] + 1e-6)))


@pytest.mark.parametrize("unscale", [True, False])
def test_a_policy_under_a_scaler_clips_unscaled_gradients_or_says_that_it_does_not(tmp_path, caplog, unscale):
    model, optimizer = make("AdamW fused")
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.25)):
        norms, _ = train_scaled(model, optimizer, None, unscale)
    steps = Run(tmp_path / "run").steps().drop(3)
    np.testing.assert_allclose(steps["total_norm"], [n for i, n in enumerate(norms) if i != 3], rtol=1e-5)
    if unscale:
        np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, 0.25 / (steps["total_norm"] + 1e-6)), rtol=1e-6)
    else:
        assert (steps["clip_coef"] == 1).all()
    assert ("clip-not-applied" in caplog.text) is not unscale


def test_a_policy_that_can_not_act_on_a_closure_says_so(tmp_path, caplog):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.25)):
        optimizer.step(closure)
        optimizer.step(closure)
    assert caplog.text.count("clip-not-applied") == 1
    assert Run(tmp_path / "run").steps()["max_norm"].isna().all()


def test_value_clip_policy_is_recorded(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=ValueClip(1e-3)):
        train(model, optimizer, 3)
    steps = Run(tmp_path / "run").steps()
    assert steps["clipped"].all()
    assert (steps["clipped_fraction"] > 0.5).all()


def test_a_compiled_models_names_have_no_prefix(tmp_path):
    """Trap 11: `_orig_mod.` would split a history."""
    model, _ = make()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    with gradwatch.attach(compiled, optimizer, tmp_path / "run"):
        train(compiled, optimizer, 2)
    assert Run(tmp_path / "run").layers("norm").columns[0] == "rnn.weight_ih_l0"


def test_tied_weights_count_once(tmp_path):
    """Trap 12."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        model["b"](model["a"](torch.ones(2, 3))).sum().backward()
        expected = model["a"].weight.grad.norm().item()
        optimizer.step()
    run = Run(tmp_path / "run")
    assert run.layers("norm").columns.tolist() == ["a.weight"]
    assert run.steps()["total_norm"].item() == pytest.approx(expected)


def test_two_runs_at_once(tmp_path):
    first, second = make(), make()
    with gradwatch.attach(*first, tmp_path / "a"), gradwatch.attach(*second, tmp_path / "b"):
        train(*first, 3, "clipped by norm")
        train(*second, 5)
    assert len(Run(tmp_path / "a").steps()) == 3
    assert len(Run(tmp_path / "b").steps()) == 5
    assert Run(tmp_path / "b").steps()["max_norm"].isna().all()


def test_a_model_copied_while_attached_carries_nothing_of_ours(tmp_path):
    """Trap 30."""
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
        twin = copy.deepcopy(model)
        other = copy.deepcopy(optimizer)
        train(twin, torch.optim.SGD(twin.parameters(), 0.1), 3)
        assert not other._optimizer_step_pre_hooks
    assert len(Run(tmp_path / "run").steps()) == 2


# --------------------------------------------------------------------------------------- events and resume


def test_on_event_is_called_in_the_training_thread(tmp_path):
    model, optimizer = make()
    got = []

    def poison(step):
        if step == 2:
            model.out.weight.grad.fill_(math.nan)

    with gradwatch.attach(model, optimizer, tmp_path / "run", on_event=got.append) as watch:
        train(model, optimizer, 4, each=poison)
        watch.flush()
        train(model, optimizer, 1)
        assert [(event.kind, event.step) for event in got] == [("nonfinite", 2)]


def test_a_callback_that_raises_is_said_and_not_called_again(tmp_path, caplog):
    model, optimizer = make()
    calls = []

    def callback(event):
        calls.append(event)
        raise KeyError("mine")

    with gradwatch.attach(model, optimizer, tmp_path / "run", on_event=callback):
        for poisoned in (1, 60):
            train(model, optimizer, 60, each=lambda s, p=poisoned: s == p % 60 and model.out.bias.grad.fill_(math.nan))
    assert len(calls) == 1
    assert ["on-event" in record.getMessage() for record in caplog.records] == [True]


def test_attaching_again_continues_after_the_last_step(tmp_path):
    model, optimizer = make()
    for _ in range(2):
        with gradwatch.attach(model, optimizer, tmp_path / "run"):
            train(model, optimizer, 5)
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == list(range(10))
    assert run.steps()["attempt"].tolist() == [0] * 5 + [1] * 5
    assert [(e.kind, e.step) for e in run.events()] == [("resumed", 5)]


def test_of_two_records_of_one_step_the_later_attempt_stands(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 6)
    first = Run(tmp_path / "run").steps()["total_norm"]
    with gradwatch.attach(model, optimizer, tmp_path / "run", first_step=4):
        train(model, optimizer, 1)
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == list(range(6))
    assert run.steps()["attempt"].tolist() == [0, 0, 0, 0, 1, 0]
    assert run.steps().loc[4, "total_norm"] != first[4]
    assert np.linalg.norm(run.layers("norm").loc[4]) == pytest.approx(run.steps().loc[4, "total_norm"])
    assert len(run.layers("norm")) == 6


def test_a_model_whose_parameters_changed_between_attempts_keeps_its_columns(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    torch.manual_seed(0)
    model = nn.ModuleDict({"extra": nn.Linear(5, 1), "out": nn.Linear(5, 1)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        (model["extra"](torch.ones(1, 5)) + model["out"](torch.ones(1, 5))).sum().backward()
        norm = model["out"].weight.grad.norm().item()
        optimizer.step()
    frame = Run(tmp_path / "run").layers("norm")
    assert frame.loc[2, "out.weight"] == pytest.approx(norm)
    assert math.isnan(frame.loc[2, "rnn.weight_hh_l0"])
    assert math.isnan(frame.loc[0, "extra.weight"])


def test_how_long_the_training_is_can_be_said_anew(tmp_path):
    for total in (10, 20):
        model, optimizer = make()
        with gradwatch.attach(model, optimizer, tmp_path / "run", total_steps=total):
            pass
        assert Run(tmp_path / "run").meta()["total_steps"] == str(total)


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"model": "net"}, "model is a str", id="a model that is none"),
        pytest.param(
            {"optimizer": "SGD"}, "is a str; expected a torch.optim.Optimizer", id="an optimizer that is none"
        ),
        pytest.param({"stats": ("norm", "mean")}, "expected some of norm, abs_max", id="an unknown statistic"),
        pytest.param({"stats": "norm"}, "expected some of", id="statistics as one string"),
        pytest.param({"every": 0}, "every is 0", id="never"),
        pytest.param({"weights_every": -1}, "weights_every -1", id="a negative period"),
        pytest.param({"first_step": -1}, "first_step is -1", id="a negative step"),
        pytest.param({"total_steps": 0}, "total_steps is 0", id="a training of no step"),
    ],
)
def test_wrong_arguments_are_said_before_training(tmp_path, arguments, says):
    model, optimizer = make()
    given = {"model": model, "optimizer": optimizer, "run": tmp_path / "run"} | arguments
    with pytest.raises(BadArgument, match=says):
        gradwatch.attach(**given)
    assert not (tmp_path / "run").exists()


def test_nothing_to_watch(tmp_path):
    with pytest.raises(NoParameters, match="no optimizer with a parameter"):
        gradwatch.attach(nn.Identity(), [], tmp_path / "run")


def test_a_file_in_the_way_of_the_run(tmp_path):
    (tmp_path / "run").write_text("mine")
    model, optimizer = make()
    with pytest.raises(StoreNotWritable, match="can't be made"):
        gradwatch.attach(model, optimizer, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_can_not_be_written():
    model, optimizer = make()
    with pytest.raises(StoreNotWritable, match="store-not-writable"):
        gradwatch.attach(model, optimizer, "/proc/gradwatch/run")


def test_a_foreign_file_is_not_written_to(tmp_path):
    (tmp_path / "gradwatch.db").write_text("not a database, but somebody's")
    model, optimizer = make()
    with pytest.raises(GradwatchError, match="not-a-run"):
        gradwatch.attach(model, optimizer, tmp_path)
    assert (tmp_path / "gradwatch.db").read_text() == "not a database, but somebody's"


def test_a_run_is_written_by_one(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        with pytest.raises(RunInUse, match="another watch of this process"):
            gradwatch.attach(model, optimizer, tmp_path / "run")
        train(model, optimizer, 2)
    assert len(Run(tmp_path / "run").steps()) == 2


# --------------------------------------------------------------------------------------------- processes

SCRIPT = """
    import os, sys, time
    import torch
    import gradwatch
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    watch = gradwatch.attach(model, optimizer, sys.argv[1])
    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
"""


def start(tmp_path: Path, end: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(end))
    command = [sys.executable, str(script), str(tmp_path / "run")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        pytest.param("train(50)", 0, "exit", id="the end of the script"),
        pytest.param("train(50); sys.exit(7)", 7, "exit", id="sys.exit"),
        pytest.param("train(50); raise ValueError('mine')", 1, "exception ValueError", id="an exception"),
        pytest.param("train(50); os.kill(os.getpid(), 15); time.sleep(9)", -15, "signal SIGTERM", id="SIGTERM"),
        pytest.param(
            "train(50); os.kill(os.getpid(), 2); time.sleep(9)", -2, "exception KeyboardInterrupt", id="Ctrl-C"
        ),
    ],
)
def test_however_a_script_ends_its_last_step_is_recorded(tmp_path, end, code, reason):
    process = start(tmp_path, end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "gradwatch" not in errors.replace(str(tmp_path), "")
    run = Run(tmp_path / "run")
    assert len(run.steps()) == 50
    assert run.attempts()[0].reason == reason


def test_after_kill_9_the_store_opens_and_lacks_at_most_the_last_second(tmp_path):
    process = start(
        tmp_path, "train(200); print('ready', flush=True); time.sleep(1.2); train(5); os.kill(os.getpid(), 9)"
    )
    process.communicate(timeout=60)
    assert process.returncode == -9
    before = sorted(os.listdir(tmp_path / "run"))
    run = Run(tmp_path / "run")
    steps = run.steps()
    # the newest step waits for its loss until the next one begins
    assert 199 <= len(steps) <= 205
    assert steps.index.tolist() == list(range(len(steps)))
    assert run.attempts()[0].ended is None
    assert not run.summary().running, "a killed process is told from a living one"
    del run
    assert sorted(os.listdir(tmp_path / "run")) == before


def test_sigterm_closes_every_open_run(tmp_path):
    end = """
    other = torch.nn.Linear(3, 1)
    second_optimizer = torch.optim.SGD(other.parameters(), 0.1)
    second = gradwatch.attach(other, second_optimizer, sys.argv[1] + "-2")
    train(5)
    other(torch.randn(4, 3)).sum().backward()
    second_optimizer.step()
    watch.close()
    os.kill(os.getpid(), 15)
    time.sleep(9)
    """
    process = start(tmp_path, end)
    process.communicate(timeout=60)
    assert process.returncode == -15
    assert Run(tmp_path / "run").attempts()[0].reason == "closed"
    assert Run(tmp_path / "run-2").attempts()[0].reason == "signal SIGTERM"
    assert len(Run(tmp_path / "run-2").steps()) == 1


def test_a_run_that_a_fault_left_unfinished_can_be_continued_in_the_same_process(tmp_path, monkeypatch):
    model, optimizer = make()
    with monkeypatch.context() as patched, gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 3)
        watch.flush()
        patched.setattr("gradwatch.store.writer.StoreWriter.append", lambda *a: 1 / 0)
        train(model, optimizer, 3)
    assert Run(tmp_path / "run").attempts()[0].ended is None
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(5))


def test_a_killed_run_can_be_continued(tmp_path):
    process = start(tmp_path, "train(20); watch.flush(); os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    process = start(tmp_path, "train(20)")
    assert process.wait(timeout=60) == 0
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(40))


def test_a_run_being_written_is_read_and_refused_to_a_second_writer(tmp_path):
    process = start(
        tmp_path, "train(30); watch.flush(); print('ready', flush=True); sys.stdin.read() or time.sleep(60)"
    )
    try:
        assert process.stdout.readline() == "ready\n"
        run = Run(tmp_path / "run")
        assert len(run.steps()) == 30
        assert run.summary().running
        model, optimizer = make()
        with pytest.raises(RunInUse, match=f"written by process {process.pid}"):
            gradwatch.attach(model, optimizer, tmp_path / "run")
    finally:
        process.kill()
        process.communicate()


def _child(optimizer, model, queue):
    train(model, optimizer, 5)
    queue.put("done")


def test_a_forked_child_does_not_write(tmp_path):
    """Trap 27: workers of a DataLoader are forks too."""
    model, optimizer = make()
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 3)
        queue = context.Queue()
        child = context.Process(target=_child, args=(optimizer, model, queue))
        child.start()
        assert queue.get(timeout=30) == "done"
        child.join(30)
        assert child.exitcode == 0
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(5))


def test_dataloader_workers_are_left_alone(tmp_path):
    model, optimizer = make()
    data = torch.utils.data.DataLoader(torch.randn(32, 4, 3), batch_size=8, num_workers=2)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for batch in data:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    assert len(Run(tmp_path / "run").steps()) == 4


def test_a_full_queue_drops_and_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gradwatch.recording.attach.QUEUE_BYTES", 1)
    monkeypatch.setattr("gradwatch.recording.sink.INTERVAL", 60.0)
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 200)
    run = Run(tmp_path / "run")
    assert len(run.steps()) + run.attempts()[0].dropped == 200
    assert run.summary().dropped_steps > 0
    assert "steps-dropped" in caplog.text
    with StoreReader(tmp_path / "run") as reader:
        assert reader.attempts()[0].reason == "closed"


# ---------------------------------------------------------------------------- events across attempts, and their origin


def record_norms(folder, norms, cuts=()):
    """Record gradients of these norms, in as many attempts as there are pieces between the cuts."""
    edges = [0, *cuts, len(norms)]
    for begin, end in itertools.pairwise(edges):
        model = nn.Linear(4, 4, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gradwatch.attach(model, optimizer, folder):
            for norm in norms[begin:end]:
                model.weight.grad = torch.full((4, 4), norm / 4)
                optimizer.step()
    return [
        (e.step, e.kind, e.severity, e.parameter, e.until, e.message)
        for e in Run(folder).events()
        if e.kind != "resumed"
    ]


def test_a_resumed_run_has_the_events_of_one_that_went_through(tmp_path):
    """Cut where a spike is not over, within growth, and more than a thousand steps after a fall began."""
    norms = steady(1900)
    norms[300] = 50.0
    norms[420:440] = [1.3**i for i in range(20)]
    norms[600:] = [1e-5 * norm for norm in norms[600:]]
    whole = record_norms(tmp_path / "whole", norms)
    assert {kind for _, kind, *_ in whole} >= {"spike", "explosion", "vanishing"}
    assert record_norms(tmp_path / "cut", norms, cuts=(310, 430, 1750)) == whole


def first_nan(tmp_path, spoil):
    """The event of a training that ``spoil`` makes not finite at step 7."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(10):
            x = torch.randn(8, 3)
            optimizer.zero_grad()
            model(spoil(model, x) if step == 7 else x).square().mean().backward()
            optimizer.step()
    (event,) = [event for event in Run(tmp_path / "run").events() if event.kind == "nonfinite"]
    assert event.step == 7
    return event


def spoil_weight(model, x):
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    return x


def spoil_backward(model, x):
    handle = model[2].register_forward_hook(lambda *args: args[2].register_hook(lambda g: g * math.nan) and None)
    model.register_forward_hook(lambda *_: handle.remove())
    return x


@pytest.mark.parametrize(
    ("spoil", "origin", "parameter"),
    [
        pytest.param(spoil_weight, "weights", "2.weight", id="a weight"),
        pytest.param(lambda model, x: x * math.nan, "loss", None, id="the input"),
        pytest.param(spoil_backward, "backward", "2.bias", id="the backward pass"),
    ],
)
def test_where_a_nan_began_is_told(tmp_path, spoil, origin, parameter):
    event = first_nan(tmp_path, spoil)
    assert (event.origin, event.parameter) == (origin, parameter)
    finding, *_ = Run(tmp_path / "run").diagnosis()
    assert finding.severity == "critical"
    assert finding.code.startswith("nonfinite")
