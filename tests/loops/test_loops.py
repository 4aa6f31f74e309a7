"""Training loops as people write them, each beside numbers computed by hand or by torch.

The names say which way of going wrong is meant: most monitors are silently wrong in some of these.
"""

import contextlib
import copy
import io
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip
from gradwatch.errors import BadArgument, RunInUse, TrainingStopped

from ..readers import Read


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(model):
    return model(torch.randn(8, 3)).square().mean()


def norm_of(model):
    return get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def kinds(run):
    return [(event.step, event.kind, event.severity) for event in run.events()]


# ------------------------------------------------------------------------------ ineffective clipping


def clip_before_backward(model, optimizer):
    optimizer.zero_grad()
    loss = loss_of(model)
    clip_grad_norm_(model.parameters(), 0.01)
    loss.backward()
    consumed = norm_of(model)
    optimizer.step()
    return consumed


def clip_before_backward_onto_zeros(model, optimizer):
    optimizer.zero_grad(set_to_none=False)
    loss = loss_of(model)
    clip_grad_norm_(model.parameters(), 0.01)
    loss.backward()
    consumed = norm_of(model)
    optimizer.step()
    return consumed


def clip_before_the_last_of_two_backwards(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    clip_grad_norm_(model.parameters(), 0.01)
    loss_of(model).backward()
    consumed = norm_of(model)
    optimizer.step()
    return consumed


def clip_after_step(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    consumed = norm_of(model)
    optimizer.step()
    clip_grad_norm_(model.parameters(), 0.01)
    return consumed


def clip_after_step_and_let_go(model, optimizer):
    consumed = clip_after_step(model, optimizer)
    optimizer.zero_grad()
    return consumed


def clip_other_parameters(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    consumed = norm_of(model)
    clip_grad_norm_(copy.deepcopy(model).parameters(), 0.01)
    optimizer.step()
    return consumed


def clip_no_parameters(model, optimizer):
    parameters = model.parameters()
    list(parameters)
    optimizer.zero_grad()
    loss_of(model).backward()
    consumed = norm_of(model)
    clip_grad_norm_(list(parameters), 0.01)
    optimizer.step()
    return consumed


def clip_parameters_without_gradient(model, optimizer):
    model[0].requires_grad_(False)
    optimizer.zero_grad()
    loss_of(model).backward()
    consumed = norm_of(model)
    clip_grad_norm_(model[0].parameters(), 0.01)
    optimizer.step()
    return consumed


def clip_before_a_closure(model, optimizer):
    consumed = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        consumed.append(norm_of(model))
        return loss

    optimizer.zero_grad()
    loss_of(model).backward()
    clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step(closure)
    return consumed[-1]


INEFFECTIVE = {
    clip_before_backward: "before-backward",
    clip_before_backward_onto_zeros: "before-backward",
    clip_before_the_last_of_two_backwards: "before-backward",
    clip_after_step: "after-step",
    clip_after_step_and_let_go: "after-step",
    clip_other_parameters: "other-parameters",
    clip_no_parameters: "no-parameters",
    clip_parameters_without_gradient: "no-gradients",
    clip_before_a_closure: "before-backward",
}


@pytest.mark.parametrize("loop", INEFFECTIVE, ids=lambda loop: loop.__name__)
def test_clipping_that_does_not_reach_the_optimizer_is_found_with_its_cause(tmp_path, loop):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        consumed = [loop(model, optimizer) for _ in range(5)]
    run = Run(tmp_path / "run")
    steps = run.steps()
    np.testing.assert_allclose(steps["total_norm"], consumed, rtol=1e-5)
    assert steps["clip_fault"].tolist() == [INEFFECTIVE[loop]] * 5
    assert not steps["skipped"].any()
    assert not steps["clipped"].any(), "nothing that was consumed was clipped"
    assert kinds(run) == [(0, "ineffective-clipping", "warning")]


def clip_between(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()


def clip_two_groups(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    clip_grad_norm_(model[0].parameters(), 0.01)
    clip_grad_norm_(model[2].parameters(), 0.01)
    optimizer.step()


def clip_after_accumulation(model, optimizer):
    optimizer.zero_grad()
    for _ in range(3):
        loss_of(model).backward()
    clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()


def clip_and_add_noise(model, optimizer):
    """As differentially private training does: what the script changes after clipping is its own."""
    optimizer.zero_grad()
    loss_of(model).backward()
    clip_grad_norm_(model.parameters(), 0.01)
    for parameter in model.parameters():
        parameter.grad += torch.randn_like(parameter.grad)
    optimizer.step()


def clip_an_attack(model, optimizer):
    """The gradient of the input of an adversarial example belongs to no optimizer."""
    optimizer.zero_grad()
    x = torch.randn(8, 3, requires_grad=True)
    model(x).square().mean().backward()
    clip_grad_norm_([x], 0.01)
    optimizer.zero_grad()
    clip_between(model, optimizer)


def clip_never(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


WITHOUT_FAULT = [
    clip_between,
    clip_two_groups,
    clip_after_accumulation,
    clip_and_add_noise,
    clip_an_attack,
    clip_never,
]


@pytest.mark.parametrize("loop", WITHOUT_FAULT)
def test_nothing_is_said_of_clipping_that_works(tmp_path, loop):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(5):
            loop(model, optimizer)
    steps = Run(tmp_path / "run").steps()
    assert steps["clip_fault"].tolist() == [None] * 5
    assert Run(tmp_path / "run").events() == []


@pytest.mark.parametrize(
    "loop",
    [
        *INEFFECTIVE,
        clip_between,
        clip_two_groups,
        clip_after_accumulation,
        clip_and_add_noise,
        clip_an_attack,
        clip_never,
    ],
    ids=lambda loop: loop.__name__,
)
def test_every_loop_trains_alike_bit_for_bit(tmp_path, loop):
    def train(watched):
        model = net()
        optimizer = sgd(model, momentum=0.9)
        with gradwatch.attach(model, optimizer, tmp_path / "run") if watched else contextlib.nullcontext():
            for _ in range(6):
                loop(model, optimizer)
        return [p.detach().clone() for p in model.parameters()], torch.get_rng_state()

    weights, random = train(False)
    watched_weights, watched_random = train(True)
    assert all(torch.equal(p, q) for p, q in zip(weights, watched_weights, strict=True))
    assert torch.equal(random, watched_random)


def test_a_gan_whose_generator_is_not_clipped_has_no_fault(tmp_path):
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    g, d = sgd(generator), sgd(discriminator)
    both = nn.ModuleDict({"g": generator, "d": discriminator})
    with gradwatch.attach(both, {"g": g, "d": d}, tmp_path / "run"):
        for _ in range(4):
            d.zero_grad()
            fake = generator(torch.randn(8, 2))
            discriminator(fake.detach()).mean().backward()
            clip_grad_norm_(discriminator.parameters(), 0.01)
            d.step()
            g.zero_grad()
            discriminator(fake).mean().backward()
            g.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["clip_fault"].isna().all()
    assert steps.loc[steps["optimizer"] == "d", "clipped"].all()


def test_clipping_at_every_micro_batch_is_said(tmp_path):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(4):
                loss_of(model).backward()
                clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    run = Run(tmp_path / "run")
    assert run.steps()["clip_fault"].tolist() == ["micro-batch"] * 3
    assert run.steps()["clipped"].all()
    assert kinds(run) == [(0, "ineffective-clipping", "info")]


@pytest.mark.parametrize("unscale", [False, True])
def test_clipping_before_unscaling_names_the_threshold_in_force(tmp_path, unscale):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            clip_grad_norm_(model.parameters(), 1.0)
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    run = Run(tmp_path / "run")
    assert run.steps()["clip_fault"].tolist() == ["before-unscale"] * 3
    (event,) = run.events()
    assert event.limit == pytest.approx(1 / 1024)


@pytest.mark.parametrize("factor", [1.0, math.inf])
def test_the_loss_of_a_step_whose_scaled_loss_overflows_is_that_before_scaling(tmp_path, factor):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    losses = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            loss = 16 * factor * (loss_of(model) + 1)
            assert scaler.scale(loss).isinf()
            scaler.scale(loss).backward()
            losses.append(loss.item())
            scaler.step(optimizer)
            scaler.update()
    run = Run(tmp_path / "run")
    assert run.steps()["loss"].tolist() == pytest.approx(losses)
    assert any(kind == "nonfinite" for _, kind, _ in kinds(run)) == (factor == math.inf)


def test_a_loss_scale_of_one_does_no_harm(tmp_path):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        scaler.scale(loss_of(model)).backward()
        clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
    assert Run(tmp_path / "run").steps()["clip_fault"].tolist() == [None]


def test_clipping_after_a_step_that_the_scaler_skipped_adds_no_step(tmp_path):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(3):
            scaler.scale(loss_of(model)).backward()
            if step == 1:
                model[0].bias.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            clip_grad_norm_(model.parameters(), 0.01)
            optimizer.zero_grad()
    steps = Run(tmp_path / "run").steps()
    assert steps["skipped"].tolist() == [False, True, False]
    assert set(steps["clip_fault"]) == {"after-step"}


# -------------------------------------------------------------------------------------- the loss


def test_the_loss_is_that_on_which_backward_was_called(tmp_path):
    """Micro-batches add up to the loss of which the gradient is."""
    model = net()
    optimizer = sgd(model)
    losses = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            parts = [loss_of(model) / 2 for _ in range(2)]
            parts[0].backward()
            torch.autograd.backward([parts[1]])
            losses.append(sum(part.item() for part in parts))
            optimizer.step()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["loss"], losses, rtol=1e-6)


def test_the_loss_of_a_scaled_backward_is_unscaled(tmp_path):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        loss = loss_of(model)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
    assert Run(tmp_path / "run").steps()["loss"].item() == pytest.approx(loss.item(), rel=1e-6)


def test_optimizers_that_step_one_after_the_other_share_the_loss(tmp_path):
    model = net()
    optimizers = [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[2].parameters(), 0.1)]
    with gradwatch.attach(model, optimizers, tmp_path / "run"):
        loss = loss_of(model)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [loss.item()] * 2


def test_a_loss_logged_for_one_optimizer_leaves_that_of_the_other(tmp_path):
    model = net()
    optimizers = {"a": torch.optim.SGD(model[0].parameters(), 0.1), "b": torch.optim.SGD(model[2].parameters(), 0.1)}
    losses = []
    with gradwatch.attach(model, optimizers, tmp_path / "run") as watch:
        for _ in range(3):
            loss = loss_of(model)
            loss.backward()
            losses.append(loss.item())
            for optimizer in optimizers.values():
                optimizer.step()
            watch.log(loss=7.0, optimizer="a")
    run = Run(tmp_path / "run")
    assert run.steps("a")["loss"].tolist() == [7.0] * 3
    np.testing.assert_allclose(run.steps("b")["loss"], losses, rtol=1e-6)


def test_the_backward_of_another_model_is_none_of_ours(tmp_path):
    """Two trainings take turns in one process, of which one is recorded; a frozen teacher lends no loss."""
    model, other = net(), nn.Linear(3, 1)
    optimizer, stranger = sgd(model), sgd(other)
    losses = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            losses.append(loss.item())
            stranger.zero_grad()
            other(torch.randn(4, 3)).square().sum().backward()
            clip_grad_norm_(model.parameters(), 0.01)
            stranger.step()
            other(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            other(torch.randn(4, 3)).square().sum().backward()
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-6)
    assert steps["clipped"].all()
    assert steps["clip_fault"].isna().all()


def test_a_backward_that_reaches_one_parameter_alone_counts(tmp_path):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        loss = model[2].bias.square().sum()
        loss.backward()
        optimizer.step()
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [pytest.approx(loss.item())]


def test_a_backward_of_what_is_no_loss_is_left_out(tmp_path):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        model(torch.randn(8, 3)).backward(torch.ones(8, 1))
        optimizer.step()
    assert Run(tmp_path / "run").steps()["loss"].isna().all()


# -------------------------------------------------------------------------------------- closures


@pytest.mark.parametrize("weights_every", [0, 1])
def test_a_closure_that_calls_no_backward_leaves_the_clipping_in_force(tmp_path, weights_every):
    model = net()
    optimizer = sgd(model)
    norms = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=weights_every):
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            norms.append(norm_of(model))
            clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step(lambda loss=loss: loss)
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], norms, rtol=1e-5)
    assert (run.steps()["max_norm"] == 0.01).all()
    assert run.steps()["clip_fault"].isna().all()
    assert len(run.layers("update_norm")) == 3 * weights_every


def test_a_policy_can_clip_within_a_closure_that_says_when(tmp_path, caplog):
    model = net()
    optimizer = sgd(model)
    norms = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.01)) as watch:

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            norms.append(norm_of(model))
            watch.gradients_ready(optimizer)
            assert norm_of(model) == pytest.approx(0.01, rel=1e-3)
            return loss

        for _ in range(3):
            optimizer.step(closure)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    assert steps["clipped"].all()
    assert caplog.text == ""


# ------------------------------------------------------------------------------ no optimizer at all


def train_by_hand(model, steps=4):
    norms = []
    for _ in range(steps):
        model.zero_grad()
        loss_of(model).backward()
        norms.append(norm_of(model))
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        clip_grad_norm_(model.parameters(), 0.1)
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.1)
    return norms


def test_a_loop_without_optimizer_is_recorded_at_its_clip_calls(tmp_path):
    model = net()
    with gradwatch.attach(model, None, tmp_path / "run"):
        norms = train_by_hand(model)
    run = Run(tmp_path / "run")
    steps = run.steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    assert (steps["max_norm"] == 0.1).all()
    assert (steps["clip_value"] == 0.05).all()
    assert steps["loss"].notna().all()
    assert run.optimizers == {"0": "NoOptimizer"}
    assert run.layers("norm").columns.tolist() == [name for name, _ in model.named_parameters()]


def test_of_a_loop_without_optimizer_every_nth_step_is_recorded(tmp_path, caplog):
    model = net()
    with gradwatch.attach(model, None, tmp_path / "run", every=3):
        norms = train_by_hand(model, steps=8)
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == [0, 3, 6]
    np.testing.assert_allclose(steps["total_norm"], norms[::3], rtol=1e-5)


def test_a_loop_without_optimizer_is_not_clipped_by_a_policy_and_that_is_said(tmp_path, caplog):
    model = net()
    with gradwatch.attach(model, None, tmp_path / "run", clip=NormClip(1.0)):
        train_by_hand(model, steps=2)
    assert "there is no optimizer: the loop itself clips and updates the weights (clip-not-applied)" in caplog.text


# --------------------------------------------------------------------------- optimizer in backward


def step_in_backward(model, lr=0.1):
    """Trap 14: as PyTorch's own tutorial does it."""
    optimizers = {p: torch.optim.SGD([p], lr) for p in model.parameters()}

    def hook(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    return list(optimizers.values())


def test_optimizers_that_step_within_backward_make_one_record(tmp_path):
    model = net()
    twin = copy.deepcopy(model)
    optimizers = step_in_backward(model)
    optimizer = sgd(twin)
    norms, losses = [], []
    with gradwatch.attach(model, optimizers, tmp_path / "run"):
        for step in range(4):
            torch.manual_seed(step)
            loss_of(model).backward()
    for step in range(4):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = loss_of(twin)
        loss.backward()
        norms.append([p.grad.norm().item() for p in twin.parameters()])
        losses.append(loss.item())
        optimizer.step()
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.layers("norm"), norms, rtol=1e-5)
    np.testing.assert_allclose(run.steps()["total_norm"], np.linalg.norm(norms, axis=1), rtol=1e-5)
    np.testing.assert_allclose(run.steps()["loss"], losses, rtol=1e-6)
    assert run.steps()["learning_rate"].tolist() == [0.1] * 4
    assert run.optimizers == {"0": "SGD"}
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_clipping_does_nothing_where_optimizers_step_within_backward(tmp_path, caplog):
    model = net()
    optimizers = step_in_backward(model)
    with gradwatch.attach(model, optimizers, tmp_path / "run", clip=NormClip(0.1), skip_nonfinite=True):
        for _ in range(3):
            loss_of(model).backward()
            clip_grad_norm_(model.parameters(), 0.1)
    assert Run(tmp_path / "run").steps()["clip_fault"].tolist() == ["no-gradients"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"gradwatch did not {what}: optimizers step within the backward, before all gradients are there"
        f" ({what}-not-applied)"
        for what in ("clip", "skip")
    ]


# ---------------------------------------------------------------------- parameters of every kind


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameters_of_any_dtype(tmp_path, dtype):
    """Trap 16: sums in half precision overflow or lose digits; complex entries have two parts."""
    parameter = nn.Parameter(torch.ones(300, dtype=dtype))
    model = nn.ParameterList([parameter])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    gradient = (torch.randn(300, dtype=torch.complex128 if dtype.is_complex else torch.float64) * 5000).to(dtype)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        parameter.grad = gradient.clone()
        optimizer.step()
    run = Run(tmp_path / "run")
    wide = gradient.to(torch.complex128 if dtype.is_complex else torch.float64)
    assert run.steps()["total_norm"].item() == pytest.approx(torch.linalg.vector_norm(wide).item(), rel=1e-6)
    assert run.parameters()[0].dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_embeddings_count_a_row_once(tmp_path, optimizer):
    """Trap 16: the rows of a sparse gradient come one by one and may come twice."""
    model = nn.Embedding(10, 4, sparse=True)
    opt = optimizer(model.parameters(), 0.1)
    norms = []
    with gradwatch.attach(model, opt, tmp_path / "run"):
        for _ in range(3):
            opt.zero_grad()
            model(torch.tensor([1, 1, 2])).square().sum().backward()
            norms.append(model.weight.grad.to_dense().norm().item())
            opt.step()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms, rtol=1e-6)


def test_empty_parameters(tmp_path):
    model = nn.ParameterList([nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))])
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        (model[0].sum() + model[1].sum()).backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    assert Run(tmp_path / "run").layers("norm").to_numpy().tolist() == [[0.0, pytest.approx(2**0.5)]]


def test_lazy_layers_are_recorded_from_their_first_forward(tmp_path, caplog):
    """Their parameters have no shape before; one joins a recording that is under way."""
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = sgd(model)
    late, norms = nn.LazyLinear(1), []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(6):
            if step == 2:
                optimizer.add_param_group({"params": list(late.parameters())})
            optimizer.zero_grad()
            loss = loss_of(model) + (late(torch.ones(1, 2)).sum() if step > 3 else 0)
            loss.backward()
            norms.append(
                get_total_norm([p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None])
            )
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    assert caplog.messages == []
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], norms, rtol=1e-5)
    assert [len(row) - row.isna().sum() for _, row in run.layers("norm").iterrows()] == [4, 4, 4, 4, 6, 6]


def test_gradients_that_are_set_in_inference_mode(tmp_path, caplog):
    """They have no count of their changes: an evolution strategy makes them so."""
    model = net()
    optimizer, norms = sgd(model), []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            with torch.inference_mode():
                for parameter in model.parameters():
                    parameter.grad = torch.randn_like(parameter)
                norms.append(norm_of(model))
                optimizer.step()
    assert caplog.messages == []
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms, rtol=1e-5)


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
def test_every_implementation_of_an_optimizer(tmp_path, options):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), **options)
    norms = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            norms.append(norm_of(model))
            optimizer.step()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms, rtol=1e-5)


def test_stale_zeros_are_zeros_and_absent_gradients_are_absent(tmp_path):
    """Trap 7: `zero_grad(set_to_none=False)` leaves zeros behind for a layer that is no longer used."""
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for set_to_none in (True, False):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss_of(model).backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        model[2](torch.randn(4, 5)).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model[2](torch.randn(4, 5)).sum().backward()
        optimizer.step()
    first = Run(tmp_path / "run").layers("norm")["0.weight"]
    assert (first[:2] > 0).all()
    assert first[2] == 0.0
    assert np.isnan(first[3])


def test_adapters_and_layers_that_are_toggled(tmp_path):
    """Trap 13: which parameters have gradients changes between steps; the frozen are never zero."""
    model = net()
    model[0].weight.requires_grad_(False)
    low, high = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.zeros(2, 5))
    model.adapter = nn.ParameterList([low, high])
    optimizer = sgd(model)
    seen = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(4):
            model[2].requires_grad_(step >= 2)
            optimizer.zero_grad()
            x = torch.randn(8, 3)
            model[2](torch.tanh(model[0](x) + x @ low @ high)).square().mean().backward()
            seen.append([p.grad is not None for p in model.parameters()])
            optimizer.step()
    frame = Run(tmp_path / "run").layers("norm")
    assert frame.notna().to_numpy().tolist() == seen
    assert frame["0.weight"].isna().all()


def test_one_optimizer_steps_more_often(tmp_path):
    """Trap 15."""
    model = net()
    optimizers = {"often": torch.optim.SGD(model[0].parameters(), 0.1), "rare": torch.optim.Adam(model[2].parameters())}
    norms = {"often": [], "rare": []}
    with gradwatch.attach(model, optimizers, tmp_path / "run"):
        for step in range(6):
            loss_of(model).backward()
            for name, layer in (("often", model[0]), ("rare", model[2])):
                if name == "often" or step % 3 == 2:
                    norms[name].append(norm_of(layer))
                    optimizers[name].step()
                    optimizers[name].zero_grad()
    run = Run(tmp_path / "run")
    for name, expected in norms.items():
        np.testing.assert_allclose(run.steps(name)["total_norm"], expected, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(tmp_path, reentrant):
    """Trap 23: the forward runs twice, and a reentrant one calls backward within backward."""
    model = net()
    optimizer = sgd(model)
    norms, losses = [], []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            x = torch.randn(8, 3, requires_grad=True)
            loss = checkpoint(model, x, use_reentrant=reentrant).square().mean()
            loss.backward()
            norms.append(norm_of(model))
            losses.append(loss.item())
            clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-6)
    assert steps["clip_fault"].isna().all()


def test_without_the_compiled_part_zeros_are_sampled_and_all_else_is_the_same(tmp_path, monkeypatch):
    """And a run that was begun with it goes on without."""
    frames = {}
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr("gradwatch.measure.routes.is_available", lambda: False)
        model = net()
        optimizer = sgd(model)
        with gradwatch.attach(model, optimizer, tmp_path / name):
            for _ in range(40):
                clip_between(model, optimizer)
        frames[name] = {stat: Run(tmp_path / name).layers(stat) for stat in ("norm", "abs_max", "nonfinite", "zeros")}
    for stat in ("norm", "abs_max", "nonfinite"):
        np.testing.assert_allclose(frames["with"][stat], frames["without"][stat], rtol=1e-6)
    assert frames["without"]["zeros"].index.tolist() == [0, 16, 32]
    assert (Run(tmp_path / "without").summary().layers[0].zero_fraction) == 0.0


# -------------------------------------------------------------------------------- handles and threads


class SavesAllItHas(torch.optim.SGD):
    """Its state is all of its attributes, among them those where PyTorch keeps hooks."""

    def __getstate__(self):
        return self.__dict__


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("make", [sgd, lambda model: SavesAllItHas(model.parameters(), 0.1)], ids=["SGD", "all"])
@pytest.mark.filterwarnings("error")
def test_a_model_and_an_optimizer_pickled_while_attached_carry_nothing_of_ours(tmp_path, make, capture):
    """Trap 30."""
    model = net()
    optimizer = make(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=capture):
        loss_of(model).backward()
        optimizer.step()
        pickled, file = pickle.dumps((model, optimizer)), io.BytesIO()
        torch.save({"model": model, "optimizer": optimizer.state_dict()}, file)
    assert b"gradwatch" not in pickled
    assert b"gradwatch" not in file.getvalue()
    again, its_optimizer = pickle.loads(pickled)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    for one in (model, again):
        one.zero_grad()
        torch.manual_seed(1)
        loss_of(one).backward()
    optimizer.step()
    its_optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("capture", [False, True])
def test_a_copy_trains_beside_the_original_and_is_no_part_of_the_recording(tmp_path, caplog, capture):
    model = net()
    optimizer = SavesAllItHas(model.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=capture):
        clip_between(model, optimizer)
        for _ in range(3):
            clip_between(*copy.deepcopy((model, optimizer)))
        clip_between(model, optimizer)
    assert len(Run(tmp_path / "run").steps()) == 2
    assert "recording-stopped" not in caplog.text


def test_attaching_twice_to_one_run_is_refused_and_to_two_is_recorded_in_both(tmp_path):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "a"):
        with pytest.raises(RunInUse):
            gradwatch.attach(model, optimizer, tmp_path / "a")
        with gradwatch.attach(model, optimizer, tmp_path / "b"):
            clip_between(model, optimizer)
        clip_between(model, optimizer)
    assert (len(Run(tmp_path / "a").steps()), len(Run(tmp_path / "b").steps())) == (2, 1)
    assert Run(tmp_path / "a").events() == []


def test_training_in_a_thread(tmp_path):
    model = net()
    optimizer = sgd(model)
    norms = []

    def train():
        with gradwatch.attach(model, optimizer, tmp_path / "run"):
            for _ in range(20):
                optimizer.zero_grad()
                loss_of(model).backward()
                norms.append(norm_of(model))
                optimizer.step()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms, rtol=1e-5)


def test_two_trainings_in_two_threads(tmp_path):
    """Neither looks at the gradients of the other, which its backward may be writing."""
    norms, losses = {"a": [], "b": []}, {"a": [], "b": []}

    def train(name):
        model = nn.Linear(4, 1)
        optimizer = sgd(model)
        with gradwatch.attach(model, optimizer, tmp_path / name):
            for _ in range(300):
                optimizer.zero_grad()
                loss = (model(torch.randn(8, 4)) - torch.randn(8, 1)).square().mean()
                loss.backward()
                losses[name].append(loss.item())
                norms[name].append(norm_of(model))
                clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()

    threads = [threading.Thread(target=train, args=(name,)) for name in norms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, expected in norms.items():
        steps = Run(tmp_path / name).steps()
        np.testing.assert_allclose(steps["total_norm"], expected, rtol=1e-5)
        np.testing.assert_allclose(steps["loss"], losses[name], rtol=1e-6)
        assert steps["clip_fault"].isna().all()


def test_a_backward_of_another_thread_reads_no_gradient_of_the_training(tmp_path):
    """The training's own backward may be writing it, without Python's lock: reading it then ends the process."""

    def other():
        weight = torch.ones(3, requires_grad=True)
        for _ in range(5):
            weight.sum().backward()
            clip_grad_norm_([weight], 0.1)
            watch.log(loss=1.0)

    model = nn.Linear(4, 1)
    model.weight = Read(torch.ones(1, 4))
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            optimizer.step()
    assert model.weight.readers == {threading.get_ident()}
    assert len(Run(tmp_path / "run").steps()) == 3


def test_to_end_a_recording_reads_no_gradient_that_another_thread_trains(tmp_path):
    """A daemon thread may train to the end of the process, and an event of one training ends all of a run."""
    model = nn.Linear(4, 1)
    model.weight = Read(torch.ones(1, 4))
    optimizer = sgd(model)
    has_trained, may_end = threading.Event(), threading.Event()

    def train():
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        model(torch.ones(2, 4)).sum().backward()
        has_trained.set()
        may_end.wait(60)

    thread = threading.Thread(target=train)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        thread.start()
        assert has_trained.wait(60)
        model.weight.readers.clear()
    assert model.weight.readers == set()
    may_end.set()
    thread.join()
    assert len(Run(tmp_path / "run").steps()) == 1


def test_a_training_that_another_thread_goes_on_with_keeps_its_losses(tmp_path):
    model, losses, has_begun = nn.Linear(4, 1), [], threading.Event()
    optimizer = sgd(model)

    def train():
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()

    def step():
        assert has_begun.wait(60)  # two threads that live at the same time have two identities
        optimizer.step()

    def go_on():
        has_begun.set()
        first.join()
        train()

    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train()
        optimizer.zero_grad()
        first, second = threading.Thread(target=step), threading.Thread(target=go_on)
        for thread in (first, second):
            thread.start()
        second.join()
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["loss"].dropna(), losses, rtol=1e-6)


def test_a_resumed_run_shows_its_seam(tmp_path):
    """Trap 24: steps after the checkpoint were made twice; those of the later attempt stand."""
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(10):
            clip_between(model, optimizer)
    with gradwatch.attach(model, optimizer, tmp_path / "run", first_step=7):
        for _ in range(5):
            clip_between(model, optimizer)
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == list(range(12))
    assert steps["attempt"].tolist() == [0] * 7 + [1] * 5
    shown = subprocess.run(
        [sys.executable, "-m", "gradwatch", "report", str(tmp_path / "run")], capture_output=True, text=True, check=True
    ).stdout
    assert "resumed at step 7, which made steps 7 to 9 again" in " ".join(shown.split())


# --------------------------------------------------------------------------------- many processes


@pytest.mark.slow
def test_under_torchrun_one_rank_records(tmp_path):
    """`torchrun -m gradwatch run`: rank 0 records, and gradients are those that all ranks agreed on."""
    (tmp_path / "train.py").write_text(
        textwrap.dedent(
            """
            import os, torch, torch.distributed as dist
            from torch import nn
            from torch.nn.parallel import DistributedDataParallel
            dist.init_process_group("gloo")
            rank = dist.get_rank()
            torch.manual_seed(0)
            model = DistributedDataParallel(nn.Linear(4, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            torch.manual_seed(rank)
            for step in range(5):
                optimizer.zero_grad()
                loss = model(torch.randn(8, 4)).square().mean()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                if rank == 0:
                    print("norm", norm.item(), "loss", loss.item(), flush=True)
            dist.destroy_process_group()
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "gradwatch", "run", "train.py"],
        env=os.environ | {"GRADWATCH_RUN": "runs/x"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines() if line.startswith("norm")]
    run = Run(tmp_path / "runs" / "x")
    np.testing.assert_allclose(run.steps()["total_norm"], [float(line[1]) for line in printed], rtol=1e-5)
    np.testing.assert_allclose(run.steps()["loss"], [float(line[3]) for line in printed], rtol=1e-5)
    assert run.layers("norm").columns.tolist() == ["weight", "bias"]
    assert done.stderr.count("gradwatch: recorded 5 steps") == 1


def test_a_sharded_model_of_one_process_is_recorded_as_any(tmp_path):
    program = """
        import sys, torch, torch.distributed as dist
        from torch import nn
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        import gradwatch
        dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
        model = fully_shard(nn.Linear(4, 1), mesh=init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradwatch.attach(model, optimizer, sys.argv[1] + "/run"):
            model(torch.ones(2, 4)).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        dist.destroy_process_group()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].tolist() == pytest.approx([math.sqrt(4 * 4 + 4)])
    assert steps["clip_coef"].tolist() == pytest.approx([1 / math.sqrt(20)], rel=1e-5)


# ------------------------------------------------------------------------------- stopping, skipping


@pytest.mark.parametrize("clip", [False, True])
def test_stop_on_ends_training_when_all_is_on_the_disk(tmp_path, clip):
    model = net()
    optimizer = sgd(model)
    made = 0
    with (
        pytest.raises(TrainingStopped, match=r"nonfinite at step 5: .*gradwatch report .*\(training-stopped\)"),
        gradwatch.attach(model, optimizer, tmp_path / "run", stop_on=("nonfinite",)),
    ):
        for step in range(1000):
            optimizer.zero_grad()
            loss_of(model).backward()
            if step == 5:
                model[0].bias.grad[0] = torch.nan
            if clip:
                clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            made += 1
            if step >= 5:
                time.sleep(0.05)  # the thread that finds the event has its turn
    run = Run(tmp_path / "run")
    assert 5 < made < 200
    assert len(run.steps()) >= made
    assert (5, "nonfinite", "critical") in kinds(run)
    assert run.attempts()[0].reason == "stopped on nonfinite"


def test_an_event_that_comes_with_the_end_stops_nothing(tmp_path):
    model = net()
    optimizer = sgd(model)
    with gradwatch.attach(model, optimizer, tmp_path / "run", stop_on=["nonfinite"]):
        loss_of(model).backward()
        model[0].bias.grad[0] = torch.nan
        optimizer.step()
    assert kinds(Run(tmp_path / "run")) == [(0, "nonfinite", "critical")]


def backward_broken_at_3(model, optimizer, step, clip):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    if step == 3:
        model[2].weight.grad[0, 0] = torch.inf
    if clip:
        clip_grad_norm_(model.parameters(), 0.5)
    return loss


def train_skipping(make, how, steps, run=None):
    """The weights and the optimizer's state after these steps."""
    model = net()
    optimizer = make(model)
    clip = how == "clipped"
    recording = contextlib.nullcontext()
    if run is not None:
        recording = gradwatch.attach(model, optimizer, run, skip_nonfinite=True)
    with recording as watch:

        def closure():
            loss = backward_broken_at_3(model, optimizer, step, clip)
            if watch is not None:
                watch.gradients_ready(optimizer)
            return loss

        for step in steps:
            torch.manual_seed(step)
            if how == "in a closure":
                optimizer.step(closure)
            else:
                backward_broken_at_3(model, optimizer, step, clip)
                optimizer.step()
    return [p.detach().clone() for p in model.parameters()], optimizer.state_dict()["state"]


@pytest.mark.parametrize("make", [sgd, lambda m: sgd(m, momentum=0.9), lambda m: torch.optim.AdamW(m.parameters())])
@pytest.mark.parametrize("how", ["plain", "clipped", "in a closure"])
def test_skip_nonfinite_leaves_out_that_update_and_no_other(tmp_path, make, how):
    """The weights and the optimizer's state are those of the training without the bad step."""
    weights, state = train_skipping(make, how, [0, 1, 2, 4, 5, 6, 7])
    found_weights, found_state = train_skipping(make, how, range(8), tmp_path / "run")
    for one, other in zip(found_weights, weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert repr(found_state) == repr(state)
    steps = Run(tmp_path / "run").steps()
    assert steps["skipped"].tolist() == [step == 3 for step in range(8)]
    assert steps["nonfinite"].tolist() == [int(step == 3) for step in range(8)]


def test_wrong_kinds_and_combinations_are_said(tmp_path):
    model = net()
    with pytest.raises(BadArgument, match=r"stop_on is \['explode'\]; expected some of nonfinite, spike"):
        gradwatch.attach(model, sgd(model), tmp_path / "run", stop_on=["explode"])
    with pytest.raises(BadArgument, match="every is 2; skip_nonfinite looks at every step"):
        gradwatch.attach(model, sgd(model), tmp_path / "run", skip_nonfinite=True, every=2)
