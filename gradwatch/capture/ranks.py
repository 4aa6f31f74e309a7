"""A capture that several processes wrote: its parts, put together in one process."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gradwatch.capture.decode import Classes
from gradwatch.capture.files import memory, read, size_of_files
from gradwatch.capture.listing import part_folders
from gradwatch.capture.record import Capture, Group
from gradwatch.errors import CaptureTooLarge, GradwatchError


def read_all(
    folder: str | os.PathLike[str], *, classes: Classes | None = None, most_bytes: float | None = None
) -> Capture:
    """Read a capture with the parts of all processes that wrote one.

    The parts of other processes lie beside the folder, and are named like it with ``-rank1`` and so on. What can't be
    told without a part that is missing, damaged or too large is left out, and `Capture.not_kept` says why.

    Args:
        folder: that of any part.
        classes: see `gradwatch.capture.read`.
        most_bytes: of all parts together; by default the memory of this machine.

    Raises:
        CaptureNotFound, CaptureDamaged, CaptureTooNew, CaptureTooLarge: the part in ``folder`` can't be read.
        UnsupportedVersion: safetensors is not installed.
    """
    left = memory() if most_bytes is None else most_bytes
    first = read(folder, classes=classes, most_bytes=left)
    if first.ranks < 2 or first.reduction is None:
        return first
    left -= size_of_files(Path(folder))
    parts, faults = {first.rank: first}, []
    for rank, other in part_folders(folder).items():
        if rank in parts:
            continue
        try:
            part = read(other, classes=classes, most_bytes=left)
        except CaptureTooLarge:
            faults.append(f"the capture of rank {rank} does not fit into this machine's memory beside the others")
            continue
        except GradwatchError as error:
            faults.append(f"the capture of rank {rank} can't be read: {error}")
            continue
        if _is_of(part, first, rank):
            parts[rank] = part
            left -= size_of_files(other)
        else:
            faults.append(f"the capture of rank {rank} is of another step")
    return joined(dict(sorted(parts.items())), faults)


def _is_of(part: Capture, first: Capture, rank: int) -> bool:
    same = (part.ranks, part.step, part.optimizer, part.why) == (first.ranks, first.step, first.optimizer, first.why)
    return same and part.rank == rank


def joined(parts: Mapping[int, Capture], faults: Sequence[str] = ()) -> Capture:
    """Put the parts of several processes together.

    Args:
        parts: by rank, at least one. Their gradients are the mean over all processes.
        faults: why other parts can't be read.

    Returns:
        A capture with the forwards of all parts, whose weights are whole. Parameters that can't be made whole, and
        gradients that the parts can't give again, are left out.
    """
    first = next(iter(parts.values()))
    missing = [rank for rank in range(first.ranks) if rank not in parts]
    notes = list(faults) or _named_captures(missing)
    weights, lost = _whole(parts, "weights")
    gradients, _ = _whole(parts, "gradients")
    unkept = [text for part in parts.values() for text in part.not_kept]
    if lost:
        notes.append(f"the parts of {len(lost)} parameters that other ranks hold, for example of {lost[0]}")
    return dataclasses.replace(
        first,
        groups=_groups_by_rank(parts),
        weights=weights,
        gradients={} if missing else gradients,
        parts=tuple(parts),
        shards={},
        not_kept=tuple(dict.fromkeys([*unkept, *notes])),
        replayable=all(part.replayable for part in parts.values()) and not lost,
    )


def _named_captures(ranks: Sequence[int]) -> list[str]:
    if not ranks:
        return []
    named = ", ".join(map(str, ranks))
    return [f"the captures of the ranks {named}" if len(ranks) > 1 else f"the capture of rank {named}"]


def _groups_by_rank(parts: Mapping[int, Capture]) -> tuple[Group, ...]:
    return tuple(Group(forwards=group.forwards, rank=rank) for rank, part in parts.items() for group in part.groups)


def _whole(parts: Mapping[int, Capture], which: str) -> tuple[dict[str, Tensor], list[str]]:
    """The whole tensors by name, and the names of those of which a part is missing."""
    found: dict[str, Tensor] = {}
    lost = []
    for name in dict.fromkeys(name for part in parts.values() for name in getattr(part, which)):
        pieces = [(part.shards.get(name), getattr(part, which).get(name)) for part in parts.values()]
        held = [(shard, piece) for shard, piece in pieces if piece is not None]
        if any(shard is None for shard, _ in held):
            found[name] = held[0][1]
            continue
        whole = _filled([(shard.shape, shard.offset, piece) for shard, piece in held if shard is not None])
        if whole is None:
            lost.append(name)
        else:
            found[name] = whole
    return found, lost


def _filled(pieces: Sequence[tuple[tuple[int, ...], tuple[int, ...], Tensor]]) -> Tensor | None:
    """One tensor of these pieces, each with the shape of the whole and its own offset; None if some are missing.

    >>> _filled([((3,), (0,), torch.tensor([1, 2])), ((3,), (2,), torch.tensor([3]))])
    tensor([1, 2, 3])
    """
    shape = pieces[0][0]
    held = {offset: piece for whole, offset, piece in pieces if whole == shape and _fits(whole, offset, piece)}
    if sum(piece.numel() for piece in held.values()) != math.prod(shape):
        return None
    made = torch.zeros(shape, dtype=pieces[0][2].dtype)
    for offset, piece in held.items():
        if piece.numel():
            made[tuple(slice(at, at + size) for at, size in zip(offset, piece.shape, strict=True))] = piece
    return made


def _fits(whole: Sequence[int], offset: Sequence[int], piece: Tensor) -> bool:
    if not piece.numel():
        return True
    return piece.dim() == len(whole) and all(
        at + size <= most for at, size, most in zip(offset, piece.shape, whole, strict=True)
    )
