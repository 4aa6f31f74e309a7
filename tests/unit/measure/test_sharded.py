"""What is not sharded passes unchanged; DTensors are tested in a real process group (tests/distributed)."""

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.measure import (
    any_sharded,
    counts_here,
    is_sharded,
    local,
    local_sizes,
    make_sums,
    measure,
    over_ranks,
    part_of,
    parts_in_fsdp1,
    splits_units,
    stands_in,
    whole,
)


class HasAMesh(torch.Tensor):
    """Looks like a DTensor from outside."""

    device_mesh = None


@pytest.mark.parametrize("tensor", [torch.ones(2), nn.Parameter(torch.ones(2))])
def test_plain_tensors_are_their_own_part(tensor):
    assert not is_sharded(tensor)
    assert local(tensor) is tensor
    assert stands_in(tensor) is tensor
    assert counts_here(tensor)
    assert part_of(tensor) == ""
    assert not splits_units(tensor)


def test_none_is_no_tensor_and_not_sharded():
    assert not is_sharded(None)
    assert stands_in(None) is None
    assert not splits_units(None)


def test_one_sharded_tensor_among_many_is_found():
    assert not any_sharded([torch.ones(1), None])
    assert any_sharded([torch.ones(1), None, torch.ones(1).as_subclass(HasAMesh)])
    assert not any_sharded([])


def test_sizes_are_those_of_now():
    flat = nn.Parameter(torch.ones(6))
    assert local_sizes([flat, None, torch.ones(0), torch.ones(2, 3, 4)]) == (6, 0, 0, 24)
    flat.data = flat.data[:2]  # as FullyShardedDataParallel does between forward and step
    assert local_sizes([flat]) == (2,)
    assert local_sizes([]) == ()


def test_without_sharded_parameters_there_is_nothing_to_add_up():
    parameters = [nn.Parameter(torch.ones(2)), None]
    table = torch.tensor([[1.0, float("nan")], [3.0, 4.0]])
    np.testing.assert_array_equal(over_ranks(parameters, table), table)
    measured = measure([torch.ones(2), None])
    assert whole(measured, parameters) is measured
    make_sums(parameters)
    assert parameters[0].grad is None


def test_a_model_without_fsdp_has_no_parts():
    assert parts_in_fsdp1(nn.Linear(2, 2)) == {}
