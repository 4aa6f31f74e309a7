"""Gradients before DistributedDataParallel reduces them, in a process group of one."""

import logging

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradwatch.recording.hooks import Reductions


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def backward(model, spoil=False):
    x = torch.ones(2, 3)
    model.zero_grad()
    (model(x).square().mean() * (float("nan") if spoil else 1.0)).backward()


def test_the_norm_and_the_entries_that_are_not_finite_are_those_of_the_gradient(group):
    model = DistributedDataParallel(network())
    reductions = Reductions([model])
    alone = network()
    for spoil in (False, True):
        backward(model, spoil)
        backward(alone, spoil)
        (measured,) = reductions.take()
        found = measured.collect()
        gradient = torch.cat([p.grad.flatten() for p in alone.parameters()]).double()
        assert found["norm"][0] == pytest.approx(gradient.norm().item(), rel=1e-6, nan_ok=True)
        assert found["nonfinite"][0] == (~gradient.isfinite()).sum()


def test_the_gradients_are_those_without_us_to_the_bit(group):
    plain, heard = DistributedDataParallel(network()), DistributedDataParallel(network())
    reductions = Reductions([heard])
    for model in (plain, heard):
        backward(model)
    for ours, theirs in zip(heard.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    reductions.close()
    backward(heard)
    for ours, theirs in zip(heard.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), "it goes on to reduce"
    assert reductions.take() == ()


def test_a_reduction_is_taken_once_and_the_last_one_counts(group):
    model = DistributedDataParallel(network())
    reductions = Reductions([model])
    assert reductions.take() == ()
    backward(model, spoil=True)
    backward(model)
    (measured,) = reductions.take()
    assert measured.collect()["nonfinite"][0] == 0
    assert reductions.take() == ()


def test_a_module_within_a_model_is_found_and_a_plain_model_has_none(group):
    inner = DistributedDataParallel(network())
    outer = nn.ModuleDict({"inner": inner, "plain": nn.Linear(1, 1)})
    reductions = Reductions([outer])
    backward(inner)
    assert len(reductions.take()) == 1
    assert Reductions([network()]).take() == ()
    assert Reductions().take() == ()


def test_a_module_that_has_a_hook_already_is_said_and_left_alone(group, caplog):
    model = DistributedDataParallel(network())
    called = []

    def hook(state, bucket):
        called.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, hook)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        reductions = Reductions([model])
    assert "(ranks-not-heard)" in caplog.text
    backward(model)
    assert (called, reductions.take()) == ([0], ())
