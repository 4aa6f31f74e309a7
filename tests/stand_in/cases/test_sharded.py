"""Parameters that are sharded over processes: one of two, whose collectives leave every number as it is."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradwatch import clip
from gradwatch.clip.policy import clip_parts
from gradwatch.measure import measure, whole

POLICIES = [
    clip.NormClip(0.5),
    clip.ValueClip(0.1),
    clip.LayerNormClip(0.5),
    clip.AutoClip(),
    clip.QuantileClip(),
    clip.ZClip(),
    clip.AGC(),
    clip.AdaGC(),
    clip.SkipOutliers(),
]


@pytest.fixture(scope="module")
def mesh(_device):
    dist.init_process_group("cpu:fake,late:fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("late", (2,))
    dist.destroy_process_group()


def parameters_on(device, mesh):
    torch.manual_seed(0)
    found = []
    for at, shape in enumerate([(6, 4), (6,), (3, 2)]):
        weight, gradient = torch.randn(shape).to(device), torch.randn(shape).to(device)
        if mesh is not None and at < 2:  # the last one is not sharded
            weight, gradient = (DTensor.from_local(t, mesh, [Shard(0)], run_check=False) for t in (weight, gradient))
        found.append(nn.Parameter(weight))
        found[-1].grad = gradient
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_clips_the_parts_without_waiting(late, mesh, policy):
    sharded, plain = parameters_on("late", mesh), parameters_on("cpu", None)
    with late.held(), late.no_waits():  # a wait is one however late the copies are
        measured = whole(measure([p.grad for p in sharded]), sharded)
        clip_parts(copy.deepcopy(policy), sharded, measured)
    expected = measure([p.grad for p in plain])
    np.testing.assert_allclose(measured.collect()["norm"], expected.collect()["norm"], rtol=1e-6)
    clip_parts(copy.deepcopy(policy), plain, expected)
    for mine, theirs in zip(sharded, plain, strict=True):
        gradient = mine.grad.to_local() if isinstance(mine.grad, DTensor) else mine.grad
        torch.testing.assert_close(gradient.cpu(), theirs.grad, rtol=1e-5, atol=1e-7)


def test_the_drop_in_does_not_wait_either(late, mesh):
    sharded, plain = parameters_on("late", mesh), parameters_on("cpu", None)
    for norm_type in (2.0, 1.0, float("inf")):
        with late.held(), late.no_waits():
            norm = clip.clip_grad_norm_(sharded, 0.5, norm_type)
        expected = torch.nn.utils.clip_grad_norm_(plain, 0.5, norm_type)
        torch.testing.assert_close(norm.cpu(), expected, rtol=1e-5, atol=1e-6)
