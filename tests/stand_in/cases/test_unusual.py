"""Loops that are not the usual one, on the device: recorded as their twins on the CPU are, with the same weights."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

STEPS = 8


def batches(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 6, generator=generator).to(dtype).to(device) for _ in range(STEPS)]


def small(device):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(device)


def attached(net, optimizer, folder, **options):
    if folder is None:
        return contextlib.nullcontext()
    return gradwatch.attach(net, optimizer, folder, weights_every=1, updates_every=1, **options)


def loss_of(net, x):
    return net(x).square().mean()


def two_optimizers(device, folder):
    net = small(device)
    first = torch.optim.AdamW(net[0].parameters(), 1e-2)
    second = torch.optim.SGD(net[2].parameters(), 1e-2, momentum=0.9)
    with attached(net, [first, second], folder):
        for x in batches(device):
            net.zero_grad()
            loss_of(net, x).backward()
            first.step()
            second.step()
    return net


def a_closure(device, folder):
    net = small(device)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)
    with attached(net, optimizer, folder):
        for x in batches(device):

            def closure(x=x):
                optimizer.zero_grad()
                loss = loss_of(net, x)
                loss.backward()
                return loss

            optimizer.step(closure)
    return net


def gradients_that_stay(device, folder):
    net = small(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for x in batches(device):
            optimizer.zero_grad(set_to_none=False)
            loss_of(net, x).backward()
            optimizer.step()
    return net


def gradients_that_move(device, folder):
    """Each is at another address in each step, since the earlier ones are kept."""
    net, kept = small(device), []
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for x in batches(device):
            optimizer.zero_grad()
            loss_of(net, x).backward()
            for parameter in net.parameters():
                kept.append(parameter.grad)
                parameter.grad = parameter.grad.clone()
            optimizer.step()
    return net


def a_group_that_joins(device, folder):
    net = small(device)
    optimizer = torch.optim.AdamW(net[0].parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for step, x in enumerate(batches(device)):
            if step == 3:
                optimizer.add_param_group({"params": list(net[2].parameters()), "lr": 1e-3})
            net.zero_grad()
            loss_of(net, x).backward()
            optimizer.step()
    return net


def one_half_on_the_host(device, folder):
    net = small("cpu")
    net[2].to(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for x in batches("cpu"):
            optimizer.zero_grad()
            net[2](net[1](net[0](x)).to(device)).square().mean().backward()
            optimizer.step()
    return net


def double_precision(device, folder):
    net = small(device).double()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for x in batches(device, torch.float64):
            optimizer.zero_grad()
            loss_of(net, x).backward()
            optimizer.step()
    return net


def a_parameter_without_entries(device, folder):
    torch.manual_seed(0)
    weights = torch.randn(3).to(device)
    net = nn.ParameterList([nn.Parameter(torch.zeros(0, 3, device=device)), nn.Parameter(weights)])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with attached(net, optimizer, folder):
        for _ in range(STEPS):
            optimizer.zero_grad()
            (net[1].square().sum() + net[0].sum()).backward()
            optimizer.step()
    return net


def a_step_that_raises(device, folder):
    """A hook of the script raises before one update; the loop catches that and goes on."""
    net = small(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    now = [0]

    def raise_once(*_):
        if now[0] == 3:
            raise ValueError("planted")

    optimizer.register_step_pre_hook(raise_once)
    with attached(net, optimizer, folder):
        for step, x in enumerate(batches(device)):
            now[0] = step
            optimizer.zero_grad()
            loss_of(net, x).backward()
            with contextlib.suppress(ValueError):
                optimizer.step()
    return net


def a_compiled_step(device, folder):
    net = small(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)

    @torch.compile(backend="eager")
    def step(x):
        optimizer.zero_grad()
        loss_of(net, x).backward()
        optimizer.step()

    with attached(net, optimizer, folder):
        for x in batches(device):
            step(x)
    return net


LOOPS = [
    two_optimizers,
    a_closure,
    gradients_that_stay,
    gradients_that_move,
    a_group_that_joins,
    one_half_on_the_host,
    double_precision,
    a_parameter_without_entries,
    a_step_that_raises,
    a_compiled_step,
]


def values_of(folder):
    run = Run(folder)
    layers = {stat: run.layers(stat) for stat in ("norm", "abs_max", "nonfinite")}
    updates = {stat: run.updates(stat) for stat in ("update_norm", "update_ratio")} if has_closed_form(run) else {}
    return {"total": run.steps()["total_norm"].to_numpy(float)} | layers | updates


def has_closed_form(run):
    return not run.updates("update_norm").empty


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_it_is_recorded_as_on_the_cpu_and_trains_the_same(late, tmp_path, loop):
    bare = [parameter.detach().cpu() for parameter in loop("late", None).parameters()]
    mine = [parameter.detach().cpu() for parameter in loop("late", tmp_path / "late").parameters()]
    assert all(map(torch.equal, mine, bare))
    loop("cpu", tmp_path / "cpu")
    recorded, twin = values_of(tmp_path / "late"), values_of(tmp_path / "cpu")
    assert recorded.keys() == twin.keys()
    assert len(recorded["total"]) >= STEPS - 1
    for name, values in twin.items():
        np.testing.assert_allclose(recorded[name], values, rtol=1e-3, atol=1e-7, err_msg=name)
