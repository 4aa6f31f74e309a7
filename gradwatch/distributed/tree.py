"""The tree by which ranks reach rank 0: the ranks of a node, then groups of nodes, then groups of those."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

FLAT = 16
"""Largest world in which rank 0 reads every rank itself."""

NODE = 8
"""Ranks that are taken for a node where torchrun does not say."""

LARGEST_NODE = 64
"""Ranks of a node that its first rank reads at most."""

WIDTH = 16
"""Nodes in a group, groups in a group of groups, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTree:
    """Which rank sends to which.

    Ranks are cut into blocks of ``node``. The first rank of a block reads the others. Blocks are cut into groups of
    ``width``, of which the first block's first rank reads the first ranks of the others, and so on up to rank 0. A rank
    and all ranks that reach rank 0 through it are neighbours: its subtree.

    >>> tree = RankTree(world_size=100, node=8, width=4)
    >>> tree.parent(13), tree.parent(8), tree.parent(40), tree.parent(96)
    (8, 0, 32, 0)
    >>> tree.children(0)
    [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 64, 96]
    >>> tree.children(32), tree.children(96), tree.children(97)
    ([33, 34, 35, 36, 37, 38, 39, 40, 48, 56], [97, 98, 99], [])
    >>> tree.subtree(96), tree.depth(0), tree.depth(97)
    (range(96, 100), 0, 2)
    """

    world_size: int
    node: int
    width: int

    @classmethod
    def of_environment(cls, world_size: int, environment: Mapping[str, str] = os.environ) -> Self:
        """The tree for a world of this size, with nodes as torchrun made them.

        >>> RankTree.of_environment(1024, {"LOCAL_WORLD_SIZE": "4"}).node
        4
        >>> RankTree.of_environment(16, {"LOCAL_WORLD_SIZE": "4"}).children(0) == list(range(1, 16))
        True
        """
        if world_size <= FLAT:
            return cls(world_size=world_size, node=world_size, width=WIDTH)
        said = environment.get("LOCAL_WORLD_SIZE", "")
        node = int(said) if said.isdecimal() and 1 < int(said) <= LARGEST_NODE else NODE
        return cls(world_size=world_size, node=node, width=WIDTH)

    def parent(self, rank: int) -> int:
        """The rank that reads the letters of this one; rank 0 has none and gives itself."""
        size = self.node
        while rank % size == 0 and size < self.world_size:
            size *= self.width
        return rank - rank % size

    def children(self, rank: int) -> list[int]:
        """The ranks whose letters this one reads."""
        found: list[int] = []
        distance, size = 1, self.node
        while rank % distance == 0 and distance < self.world_size:
            if rank % size == 0:
                found += range(rank + distance, min(rank + size, self.world_size), distance)
            distance, size = size, size * self.width
        return found

    def neighbours(self, rank: int) -> list[int]:
        """The ranks of this rank's node whose letters it reads.

        >>> RankTree(world_size=100, node=8, width=4).neighbours(96)
        [97, 98, 99]
        """
        return [child for child in self.children(rank) if child - rank < self.node]

    def subtree(self, rank: int) -> range:
        """The rank and all ranks that reach rank 0 through it."""
        last = rank
        while children := self.children(last):
            last = children[-1]
        return range(rank, last + 1)

    def depth(self, rank: int) -> int:
        """Hops to rank 0."""
        hops = 0
        while rank:
            rank, hops = self.parent(rank), hops + 1
        return hops
