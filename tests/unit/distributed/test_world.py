"""The rank of a process among those that train together."""

import importlib

import torch.distributed as dist

from gradwatch.distributed.world import rank_and_world_size


def test_without_a_process_group_this_is_rank_0_of_1():
    assert rank_and_world_size() == (0, 1)


def test_with_a_process_group_its_rank_and_size_count():
    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # registers the backend "fake"
    dist.init_process_group("fake", store=dist.HashStore(), rank=2, world_size=3)
    try:
        assert rank_and_world_size() == (2, 3)
    finally:
        dist.destroy_process_group()
