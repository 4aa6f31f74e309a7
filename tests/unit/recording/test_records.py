"""Records hold the numbers of the gradient before clipping, compared with torch by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gradwatch
from gradwatch import Run
from gradwatch.measure import ZEROS_EVERY, fused, measure, measure_updates
from gradwatch.record import UPDATE_STATS
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.records import make_local

from .nets import CLIPS, Net, backward, make, train


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


def test_the_losses_of_micro_batches_are_averaged(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for value in (1.0, 3.0):
            backward(model, optimizer)
            watch.log(loss=value)
        optimizer.step()
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [2.0]


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
    assert "norm overflow: every entry is finite (the largest is 1e30)" in event.message


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


def test_a_rank_without_rows_takes_nothing_from_the_updates_of_the_whole():
    """It has read none, which the others must not take for unknown: their rows are the whole."""
    weights = [torch.nn.Parameter(torch.zeros(0, 3)), torch.nn.Parameter(torch.zeros(0))]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.Adam(weights)
    optimizer.step()
    pending = PendingStep(step=0, measured=measure([weight.grad for weight in weights]))
    pending.updates, pending.part_sizes = measure_updates(optimizer, weights), (0, 0)
    updates = make_local(pending, "0", [True, True], 0).updates
    assert updates is not None
    np.testing.assert_array_equal(updates, np.zeros((len(UPDATE_STATS), 2)))


def test_an_update_that_was_not_read_stays_unknown_on_a_rank_with_rows():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.Adam([weight])  # it has not stepped, so that there is no state to read
    pending = PendingStep(step=0, measured=measure([weight.grad]))
    pending.updates, pending.part_sizes = measure_updates(optimizer, [weight]), (3,)
    updates = make_local(pending, "0", [True], 0).updates
    assert updates is not None
    assert np.isnan(updates).all()
