"""Gradients that lie in parts over several processes: `torch.distributed.tensor.DTensor`.

What is measured without waiting for anybody is the part that this process holds (`local`). Where a
number of the whole is needed at once, to clip by it, the processes of the mesh add up what each has
(`whole`), as PyTorch's own clipping does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradwatch.errors import ShardedParameters

_NEVER_SHARDED = frozenset({Tensor, torch.nn.Parameter, type(None)})


def is_sharded(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor, which holds a part or a copy of one that several processes have.

    >>> is_sharded(torch.zeros(1))
    False
    """
    return type(tensor) not in _NEVER_SHARDED and hasattr(tensor, "device_mesh")


def any_sharded(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one of them is; by their types first, for this is asked of every parameter at every step.

    >>> any_sharded([torch.zeros(1), None])
    False
    """
    listed = list(tensors)
    return not _NEVER_SHARDED.issuperset(map(type, listed)) and any(map(is_sharded, listed))


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of one that is not sharded the tensor itself.

    Raises:
        ShardedParameters: it is a sum that the processes have not made yet.
    """
    if not is_sharded(tensor):
        return tensor
    held: Any = tensor
    if any(placement.is_partial() for placement in held.placements):
        raise ShardedParameters(
            f"A gradient of shape {tuple(tensor.shape)} is a sum over processes that has not been made yet"
            f" ({held.placements}), and to make it gradwatch would have to wait for them. This happens with"
            " SequenceParallel where there is no data parallelism beside it (fully_shard makes the sum). Clip by"
            " gradwatch, with attach(clip=...) in every process, and it is made for that."
        )
    part = held._local_tensor
    # A collective that is still under way: PyTorch waits for it when the values are looked at.
    return part if type(part) is Tensor else held.to_local()


@torch.no_grad()
def make_sums(parameters: Iterable[Tensor | None]) -> None:
    """Where a gradient is a sum that the processes have not made yet, make it.

    A collective for each such gradient; every process of its mesh has to come here.
    """
    for parameter in parameters:
        gradient: Any = None if parameter is None else parameter.grad
        if parameter is None or gradient is None or not is_sharded(gradient):
            continue
        if any(placement.is_partial() for placement in gradient.placements):
            from torch.distributed.tensor import Replicate

            whole = [Replicate() if placement.is_partial() else placement for placement in gradient.placements]
            parameter.grad = gradient.redistribute(placements=whole)


def counts_here(tensor: Tensor) -> bool:
    """Whether the part that this process holds is the one that counts, where several hold the same.

    Those do that are first along each dimension of the mesh over which it is replicated.
    """
    if not is_sharded(tensor):
        return True
    held: Any = tensor
    coordinate = held.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    return all(
        at == 0 or not placement.is_replicate() for at, placement in zip(coordinate, held.placements, strict=True)
    )


def part_of(tensor: Tensor) -> str:
    """Which part of a tensor this process holds; who holds an equal one names it alike.

    >>> part_of(torch.zeros(1))
    ''
    """
    if not is_sharded(tensor):
        return ""
    held: Any = tensor
    coordinate = held.device_mesh.get_coordinate() or ()
    along = zip(coordinate, held.placements, strict=True) if coordinate else ()
    return ",".join("-" if placement.is_replicate() else f"{at}" for at, placement in along)


def over_ranks(parameters: Sequence[Tensor | None], table: Tensor, largest: bool = False) -> Tensor:
    """Add up, over the processes of each parameter's mesh, what each has of it; or take the largest.

    A collective for each dimension of each mesh; every process of the mesh has to call this with its
    parameters in the same order. Columns of parameters that are not sharded stay as they are.

    Args:
        parameters: of which the columns are.
        table: (rows, parameters), finite or not; not negative where the largest is wanted.
        largest: take that instead of the sum.
    """
    import torch.distributed as dist

    found = table.clone()
    meshes: dict[Any, list[int]] = {}
    counted = [parameter is not None and counts_here(parameter) for parameter in parameters]
    for position, parameter in enumerate(parameters):
        if parameter is not None and is_sharded(parameter):
            held: Any = parameter
            meshes.setdefault(held.device_mesh, []).append(position)
    for mesh, positions in meshes.items():
        device = "cpu" if mesh.device_type == "cpu" else table.device
        zero = table.new_zeros(())
        here = torch.tensor([counted[p] for p in positions], device=table.device)
        columns = torch.where(here, table[:, positions], zero).to(device).contiguous()
        for dimension in range(mesh.ndim):
            if mesh.size(dimension) > 1:
                dist.all_reduce(columns, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, mesh.get_group(dimension))
        found[:, positions] = columns.to(table.device)
    return found


def stands_in(parameter: Tensor | None) -> Tensor | None:
    """What a policy clips in the place of a sharded parameter: the part that is here, and that of its gradient.

    Written to in place, the gradient's part is the gradient.
    """
    if parameter is None or not is_sharded(parameter):
        return parameter
    part = local(parameter.detach())
    part = part.view(part.shape)
    part.stands_for = parameter  # type: ignore[attr-defined]
    if parameter.grad is not None:
        part.grad = local(parameter.grad)
    return part


def splits_units(parameter: Tensor | None) -> bool:
    """Whether the parts of a parameter are cut along another dimension than the first."""
    if parameter is None or not is_sharded(parameter):
        return False
    held: Any = parameter
    return any(not placement.is_replicate() and placement.dim != 0 for placement in held.placements)


def parts_in_fsdp1(module: torch.nn.Module) -> dict[int, tuple[tuple[int, ...], str]]:
    """Of each parameter that FSDP1 holds a part of here, by its `id`: its whole shape, and which part it is.

    With ``use_orig_params=True`` they are plain tensors that hold what of them lies on this process,
    which may be nothing. Otherwise the flat parameter is one of them.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return {}
    import torch.distributed as dist

    found: dict[int, tuple[tuple[int, ...], str]] = {}
    for unit in module.modules():
        handle = getattr(unit, "_handle", None) if isinstance(unit, fsdp.FullyShardedDataParallel) else None
        if handle is None:
            continue
        flat: Any = handle.flat_param
        group: Any = unit.process_group
        part = "" if unit.sharding_strategy is fsdp.ShardingStrategy.NO_SHARD else str(dist.get_rank(group))
        originals = zip(flat._params, flat._shapes, strict=True) if flat._params is not None else ()
        found |= {id(one): (tuple(shape), part) for one, shape in originals}
        found[id(flat)] = ((int(flat._unpadded_unsharded_size.numel()),), part)
    return found
