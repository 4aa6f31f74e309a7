"""Buffers are as before a forward; those that forwards change are copied, others held."""

import pytest
import torch
from torch import nn

from gradwatch.recording.capture.surroundings import Buffers, Flags, autocast_of


def test_buffers_that_a_forward_changes_are_copied_and_others_held():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Module())
    model[1].register_buffer("mask", torch.ones(2**17, dtype=torch.bool))
    buffers = Buffers(model, "net.")
    for _ in range(3):
        before = {f"net.{name}": one.clone() for name, one in model.named_buffers()}
        taken = buffers.take()
        model[0](torch.randn(4, 2))
        buffers.end()
        assert taken.keys() == before.keys()
        assert all(torch.equal(taken[name].tensor, before[name]) for name in before)
        assert not any(held.is_changed for held in taken.values())
    assert taken["net.1.mask"].tensor is model[1].mask
    assert taken["net.0.running_mean"].tensor is not model[0].running_mean


def test_a_large_buffer_is_not_copied_and_its_change_is_noticed_once():
    model = nn.Module()
    model.register_buffer("large", torch.zeros(2**19))
    buffers = Buffers(model, "")
    taken = buffers.take()
    model.large += 1
    buffers.end()
    assert taken["large"].is_changed
    taken = buffers.take()
    model.large += 1
    buffers.end()
    assert not taken["large"].is_changed
    assert taken["large"].tensor[0] == 1


def test_a_buffer_replaced_by_another_tensor_is_held_as_it_was():
    model = nn.Module()
    model.register_buffer("state", torch.zeros(2))
    buffers = Buffers(model, "")
    taken = buffers.take()
    model.state = model.state + 1
    buffers.end()
    assert taken["state"].tensor.tolist() == [0, 0]


def test_flags_that_differ_from_the_root_are_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout()))
    flags = Flags(model, "net.")
    assert flags.take() == {"": True}
    model[1].eval()
    assert flags.take() == {"": True, "net.1": False, "net.1.0": False}
    model.eval()
    assert flags.take() == {"": False}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_noted_where_it_is_on(dtype):
    assert autocast_of({"cpu"}) == {}
    with torch.autocast("cpu", dtype, cache_enabled=False):
        (found,) = autocast_of({"cpu"}).values()
    assert (found.enabled, found.dtype, found.cache_enabled) == (True, str(dtype).removeprefix("torch."), False)
