"""A process among all that train together: its rank, and what it holds of each parameter."""

from __future__ import annotations

from typing import NamedTuple

from gradwatch.record import ParameterInfo


class ParameterPart(NamedTuple):
    """The part of one parameter that a rank holds.

    Attributes:
        info: name, shape and dtype of the whole parameter.
        part: which part of it. Ranks that hold copies of the same part use the same text; empty is the whole parameter.
        mark: a checksum of its first entries when it joined, by which ranks notice that they hold no copies; None: not
            known.
    """

    info: ParameterInfo
    part: str = ""
    mark: int | None = None


def rank_and_world_size() -> tuple[int, int]:
    """The rank of this process and the number of ranks; (0, 1) without an initialized process group.

    >>> rank_and_world_size()
    (0, 1)
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
