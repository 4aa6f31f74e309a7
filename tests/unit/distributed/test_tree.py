"""Which rank reads which; a plain walk from rank to rank is the oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.distributed import tree as module
from gradwatch.distributed.tree import RankTree

trees = st.builds(RankTree, world_size=st.integers(1, 300), node=st.integers(2, 9), width=st.integers(2, 5))


def below(tree, rank):
    """The rank and all that reach it."""
    return {rank}.union(*(below(tree, child) for child in tree.children(rank)))


@given(trees)
def test_every_rank_but_0_is_read_by_one_other_and_all_reach_rank_0(tree):
    readers = [(child, rank) for rank in range(tree.world_size) for child in tree.children(rank)]
    assert sorted(child for child, _ in readers) == list(range(1, tree.world_size))
    assert all(tree.parent(child) == rank for child, rank in readers)
    assert below(tree, 0) == set(range(tree.world_size))


@given(trees)
def test_a_subtree_is_the_ranks_that_reach_its_first_rank(tree):
    for rank in range(tree.world_size):
        assert below(tree, rank) == set(tree.subtree(rank))


@given(trees)
def test_the_depth_is_the_number_of_readers_on_the_way(tree):
    for rank in range(tree.world_size):
        hops, at = 0, rank
        while at:
            at, hops = tree.parent(at), hops + 1
        assert tree.depth(rank) == hops


@pytest.mark.parametrize("world_size", [1024, 16384, 100_000])
def test_what_a_rank_reads_does_not_grow_with_the_world(world_size):
    tree = RankTree.of_environment(world_size, {"LOCAL_WORLD_SIZE": "8"})
    assert max(len(tree.children(rank)) for rank in range(0, world_size, 8)) == len(tree.children(0)) <= 64
    assert max(tree.depth(rank) for rank in (world_size - 1, world_size // 2 - 1)) <= 5


def test_a_node_is_what_torchrun_says_if_that_makes_sense():
    assert RankTree.of_environment(100, {"LOCAL_WORLD_SIZE": "4"}).node == 4
    for said in ("", "x", "-3", "0", "1", "100"):
        assert RankTree.of_environment(100, {"LOCAL_WORLD_SIZE": said}).node == module.NODE


def test_rank_0_reads_all_ranks_of_a_small_world_itself():
    tree = RankTree.of_environment(module.FLAT, {"LOCAL_WORLD_SIZE": "4"})
    assert tree.children(0) == list(range(1, module.FLAT))
    assert RankTree.of_environment(1, {}).children(0) == []
