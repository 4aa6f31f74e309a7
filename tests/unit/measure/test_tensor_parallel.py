"""Parts that are plain tensors are told apart by the attributes that Megatron-LM sets on them."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradwatch.measure import count_unknown_parts, parts_by_attributes


@pytest.fixture
def groups():
    """This process is rank 1 of 4, which no other process has to join; groups of four, two and one ranks."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield {4: dist.group.WORLD, 2: dist.new_group([0, 1]), 1: dist.new_group([1])}
    dist.destroy_process_group()


def column_parallel(group=None):
    """A layer of which this process has a part: rows of the weight and of the bias."""
    layer = nn.Linear(6, 3)
    for parameter in layer.parameters():
        parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, 0, 1
    if group is not None:
        layer.tp_group = group
    return layer


@pytest.mark.parametrize("size", [2, 4])
def test_the_whole_has_the_parts_of_all_ranks_of_the_group(groups, size):
    layer = column_parallel(groups[size])
    found = parts_by_attributes(nn.Sequential(nn.Linear(2, 6), layer))
    assert found == {id(layer.weight): ((3 * size, 6), "1"), id(layer.bias): ((3 * size,), "1")}
    assert count_unknown_parts(layer, experts=True) == 0


def test_a_row_parallel_weight_is_cut_along_its_columns(groups):
    layer = nn.Linear(3, 6)
    layer.weight.tensor_model_parallel, layer.weight.partition_dim, layer.tp_group = True, 1, groups[2]
    layer.bias.tensor_model_parallel, layer.bias.partition_dim = False, -1
    assert parts_by_attributes(layer) == {id(layer.weight): ((6, 6), "1")}


def test_a_group_of_one_rank_holds_the_whole(groups):
    layer = column_parallel(groups[1])
    assert (parts_by_attributes(layer), count_unknown_parts(layer, experts=True)) == ({}, 0)


def test_parts_of_an_unknown_group_and_experts_of_some_ranks_are_counted(groups):
    layer = column_parallel()
    assert (parts_by_attributes(layer), count_unknown_parts(layer, experts=True)) == ({}, 2)
    expert = nn.Linear(2, 2)
    expert.weight.allreduce, expert.bias.allreduce = False, True
    network = nn.Sequential(layer, expert)
    assert [count_unknown_parts(network, experts=experts) for experts in (True, False)] == [3, 2]


def test_layers_of_older_versions_take_the_group_that_the_script_has_set_up(groups, monkeypatch):
    state = torch.nn.Module()  # stands for the module megatron.core.parallel_state
    state.model_parallel_is_initialized = lambda: True
    state.get_tensor_model_parallel_group = lambda: groups[4]
    state.get_expert_tensor_parallel_group = lambda: groups[2]
    monkeypatch.setitem(__import__("sys").modules, "megatron.core.parallel_state", state)
    layer, expert = column_parallel(), column_parallel()
    expert.is_expert = True
    found = parts_by_attributes(nn.Sequential(layer, expert))
    assert [found[id(one.bias)] for one in (layer, expert)] == [((12,), "1"), ((6,), "1")]


def test_attributes_of_other_kinds_mean_nothing(groups):
    layer = column_parallel(groups[2])
    layer.weight.partition_dim, layer.bias.tensor_model_parallel = -1, "yes"
    assert parts_by_attributes(layer) == {}
    assert count_unknown_parts(layer, experts=True) == 1
