"""Captures in several processes: all ranks agree on the step to keep and its folder.

Ranks communicate through the key-value store of torch.distributed, and wait for an answer only for a limited time. They
use no collective, so a rank that no longer captures can't block the training of the others.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gradwatch.capture import Shard
from gradwatch.distributed import Mailbox
from gradwatch.measure import is_sharded
from gradwatch.recording.capture.forwards import unwrapped

Parallel: TypeAlias = Literal["ddp", "fully_shard"]
"""How the gradients of the processes become their mean."""

WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a step is kept: the folder of rank 0's part, and the number of the step there."""

    folder: str
    step: int


class CaptureTeam:
    """The processes that capture one training together.

    Attributes:
        rank, ranks: of this process, and how many there are.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        """Raises whatever torch.distributed raises if it has no key-value store."""
        self.rank, self.ranks = rank, ranks
        self._mailbox = Mailbox(rank)
        self._last: dict[str, str] = {}

    def exchange(self, what: str, moment: str, value: float) -> list[float]:
        """The values that all ranks have of something at one moment, in the order of the ranks.

        Raises:
            TimeoutError: a rank has told none in time.
        """
        own = f"{what}/{moment}/{self.rank}"
        self._mailbox.announce(own, value)
        names = [f"{what}/{moment}/{rank}" for rank in range(self.ranks)]
        found = self._mailbox.all_announced(names, WAIT_SECONDS)
        if found is None:
            raise TimeoutError(f"another rank has not sent its part within {WAIT_SECONDS:.0f} s")
        if (read := self._last.get(what)) is not None:  # all ranks have gone on, and so have read it
            self._mailbox.withdraw(read)
        self._last[what] = own
        return [float(one) for one in found]

    def total(self, moment: str, norm: float, copies: int) -> float:
        """The norm of gradients of which each rank holds a part, and of each part there are ``copies``."""
        squares = [one * one for one in self.exchange("norm", moment, norm)]
        return math.sqrt(sum(squares) / copies) if all(map(math.isfinite, squares)) else math.nan

    def announce(self, moment: str, place: Place | None) -> None:
        """Tell the other ranks where a step is kept; None if it is not."""
        self._mailbox.announce(f"place/{moment}", None if place is None else [place.folder, place.step])

    def place(self, moment: str) -> Place | None:
        """Where rank 0 keeps a step; None if it does not, or is silent."""
        found = self._mailbox.announced(f"place/{moment}", WAIT_SECONDS)
        return None if found is None else Place(folder=str(found[0]), step=int(found[1]))


def parallel_kind(model: nn.Module) -> Parallel | None:
    """How several processes train this model; None if it is not by DistributedDataParallel or `fully_shard` alone."""
    if any(is_sharded(one) for one in model.parameters()):
        return "fully_shard" if _is_fully_sharded(model) else None
    if _is_ddp(model) or any(_is_ddp(one) and unwrapped(one) is unwrapped(model) for one in _every_module()):
        return "ddp"
    return None


def _is_ddp(module: nn.Module) -> bool:
    module = getattr(module, "_orig_mod", module)
    return type(module).__name__ == "DistributedDataParallel"


def _every_module() -> Iterator[nn.Module]:
    """Every module of this process; by the type alone, because proxies answer `isinstance` with work."""
    return (one for one in gc.get_objects() if issubclass(type(one), nn.Module))


def _fsdp_parameters(model: nn.Module) -> list[Any]:
    """What `fully_shard` knows of each parameter that it shards."""
    found: list[Any] = []
    for module in model.modules():
        state_of: Any = getattr(module, "_get_fsdp_state", None)
        state = None if state_of is None else state_of()
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for group in groups:
            found += getattr(group, "fsdp_params", ())
    return found


def _is_fully_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` over all processes made all parts, and nothing had made parts before."""
    known = {id(one.sharded_param): one for one in _fsdp_parameters(model)}
    world = torch.distributed.get_world_size()
    for parameter in model.parameters():
        held: Any = parameter
        one = known.get(id(parameter))
        if one is None:
            if is_sharded(parameter) or parameter.requires_grad:
                return False
        elif one.is_dtensor or held.device_mesh.size() != world:
            return False
    return True


def computing_type(model: nn.Module) -> str | None:
    """The type that `fully_shard` casts parameters to for the computation; None if it leaves them."""
    for one in _fsdp_parameters(model):
        kind = getattr(getattr(one, "mp_policy", None), "param_dtype", None)
        if kind is not None:
            return str(kind).removeprefix("torch.")
    return None


def copies_of(parameters: Sequence[Tensor | None]) -> int:
    """How many ranks hold each part of a sharded parameter."""
    for parameter in parameters:
        if parameter is not None and is_sharded(parameter):
            held: Any = parameter
            sizes = zip(held.device_mesh.shape, held.placements, strict=True)
            return math.prod(size for size, placement in sizes if placement.is_replicate())
    return 1


def shard_of(parameter: Tensor) -> Shard | None:
    """Where the part of this process lies; None if it holds the whole."""
    if not is_sharded(parameter):
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    held: Any = parameter
    _, offset = compute_local_shape_and_global_offset(held.shape, held.device_mesh, held.placements)
    return Shard(shape=tuple(held.shape), offset=tuple(int(one) for one in offset))
