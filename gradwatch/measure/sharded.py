"""Gradients that are sharded over several processes: `torch.distributed.tensor.DTensor`.

The part that this process holds (`local`) is measured without waiting for the others. Clipping needs the
norm of the whole gradient at once; there the processes of the mesh add up their parts (`over_ranks`), as
PyTorch's own clipping does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradwatch.errors import ShardedParameters
from gradwatch.measure.devices import places, to_device

_NEVER_SHARDED = frozenset({Tensor, torch.nn.Parameter, type(None)})


def is_sharded(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor: one that several processes hold in parts or as copies.

    >>> is_sharded(torch.zeros(1))
    False
    """
    return type(tensor) not in _NEVER_SHARDED and hasattr(tensor, "device_mesh")


def any_sharded(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one of the tensors is a DTensor.

    Types are compared first, because this is asked of every parameter at every step.

    >>> any_sharded([torch.zeros(1), None])
    False
    """
    listed = tensors if isinstance(tensors, list) else list(tensors)
    return not _NEVER_SHARDED.issuperset(map(type, listed)) and any(map(is_sharded, listed))


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; of one that is not sharded, the tensor itself.

    Raises:
        ShardedParameters: the tensor is a sum that its processes have not made yet.
    """
    if not is_sharded(tensor):
        return tensor
    held: Any = tensor
    if any(placement.is_partial() for placement in held.placements):
        raise ShardedParameters(
            f"A gradient of shape {tuple(tensor.shape)} is a sum over processes that has not been computed yet"
            f" ({held.placements}). Computing it would wait for the other processes, so gradwatch does not. This"
            " happens with SequenceParallel without data parallelism (fully_shard makes the sum). With"
            " attach(clip=...) in every process gradwatch computes the sum in order to clip."
        )
    part = held._local_tensor
    # Another class stands for a collective that is still under way: PyTorch waits for it here.
    return part if type(part) is Tensor else held.to_local()


@torch.no_grad()
def local_sizes(tensors: Sequence[Tensor | None]) -> tuple[int, ...]:
    """The entries of each tensor that this process holds; 0 for None.

    They are asked for again at each step: FullyShardedDataParallel gives one parameter now its whole, now a part.

    >>> local_sizes([torch.zeros(2, 3), None, torch.zeros(0)])
    (6, 0, 0)
    """
    # To ask each tensor whether it is sharded takes twice as long as to ask for its size.
    own = [None if t is None else local(t) for t in tensors] if any_sharded(tensors) else tensors
    return tuple(0 if t is None else t.numel() for t in own)


def make_sums(parameters: Iterable[Tensor | None]) -> None:
    """Make the sums over processes that gradients still lack, and store them in ``grad``.

    One collective for each such gradient; every process of its mesh has to call this.
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
    """Whether this process's part is the one to count, where several processes hold the same part.

    That is the process with index 0 along each dimension of the mesh over which the tensor is replicated.
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
    """Name the part of a tensor that this process holds; processes with equal parts give equal names.

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
    """Add up the columns of each sharded parameter over the processes of its mesh; or take the largest.

    One collective for each dimension of each mesh; every process of the mesh has to call this with its
    parameters in the same order. Columns of parameters that are not sharded stay as they are.

    Args:
        parameters: one for each column of the table.
        table: of shape (rows, parameters), finite or not; not negative with ``largest``.
        largest: take the largest instead of the sum.

    Returns:
        A new table of the same shape.
    """
    import torch.distributed as dist

    found = table.clone()
    counted = [parameter is not None and counts_here(parameter) for parameter in parameters]
    for mesh, positions in _by_mesh(parameters).items():
        device = "cpu" if mesh.device_type == "cpu" else table.device
        zero = table.new_zeros(())
        at = places(positions, table.device)
        here = to_device(torch.tensor([counted[p] for p in positions]), table.device)
        columns = torch.where(here, table.index_select(1, at), zero).to(device).contiguous()
        for dimension in range(mesh.ndim):
            if mesh.size(dimension) > 1:
                dist.all_reduce(columns, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, mesh.get_group(dimension))
        found.index_copy_(1, at, columns.to(table.device))
    return found


def _by_mesh(parameters: Sequence[Tensor | None]) -> dict[Any, list[int]]:
    """Return the positions of the sharded parameters, by their device mesh."""
    meshes: dict[Any, list[int]] = {}
    for position, parameter in enumerate(parameters):
        if parameter is not None and is_sharded(parameter):
            held: Any = parameter
            meshes.setdefault(held.device_mesh, []).append(position)
    return meshes


def stands_in(parameter: Tensor | None) -> Tensor | None:
    """Return this process's part of a sharded parameter, with its part of the gradient, for a policy to clip.

    The parts are views: writing to them in place writes to the parameter's gradient.
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
    """Whether a parameter is sharded along another dimension than the first."""
    if parameter is None or not is_sharded(parameter):
        return False
    held: Any = parameter
    return any(not placement.is_replicate() and placement.dim != 0 for placement in held.placements)


def parts_in_fsdp1(module: torch.nn.Module) -> dict[int, tuple[tuple[int, ...], str]]:
    """Return the whole shape and the part's name of each parameter that FSDP1 shards, by the parameter's `id`.

    With ``use_orig_params=True`` the parameters are plain tensors that hold this process's part of the
    original, which may be empty. Otherwise the flat parameter is the parameter.
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
