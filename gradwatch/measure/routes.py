"""Measure gradients, each by the fastest route that can read it.

On the CPU the compiled pass reads every plain gradient once. PyTorch's operators read the rest, or everything if the
pass was not built. On CUDA a Triton kernel does the same. On accelerators nothing
waits: results stay on the device until `Measurement.collect`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from gradwatch.measure import devices
from gradwatch.measure.ahead import read
from gradwatch.measure.entries import PLAIN, ask_operators, entries_of
from gradwatch.measure.fused import COLUMNS, is_available
from gradwatch.measure.measurement import Measurement, Part
from gradwatch.measure.sharded import any_sharded, is_sharded, local, over_ranks
from gradwatch.record import STATS

logger = logging.getLogger("gradwatch")

ZEROS_EVERY = 16
"""Without the compiled pass zeros are counted at each step whose number this divides: counting them costs as much
as the other three statistics together."""

_TRITON_DEVICES = {"cuda"}
_NOT_TRIED = ModuleType("not tried")
_triton: ModuleType | None = _NOT_TRIED

TritonPart: TypeAlias = Literal["read gradients", "scale gradients", "read updates"]
"""What one of Triton's kernels does."""
_failed: set[TritonPart] = set()


def measure(gradients: Sequence[Tensor | None], stats: Sequence[str] = STATS) -> Measurement:
    """Measure every gradient. Call it before clipping.

    Clipping by a NaN norm turns every gradient into NaN, and the parameter at fault can no longer
    be told apart.

    Args:
        gradients: of any shape, dtype, device and class; None where a parameter has no gradient. `entries_of`
            says what is measured of those that are not plain tensors. One whose entries can't be read is
            left out, and a warning says so. Of a gradient that is sharded over processes (DTensor) the part
            of this process is measured.
        stats: which of `gradwatch.record.STATS`.

    Raises:
        ShardedParameters: a gradient is a sum that its processes have not made yet.

    >>> found = measure([torch.tensor([3.0, -4.0, 0.0]), None, torch.tensor([float("nan")])]).collect()
    >>> found["norm"].tolist()
    [5.0, nan, nan]
    >>> found["abs_max"].tolist()[0], found["nonfinite"].tolist(), found["zeros"].tolist()
    (4.0, [0.0, nan, 1.0], [1.0, nan, 0.0])
    """
    wanted = STATS if stats == STATS else tuple(name for name in STATS if name in stats)
    first = gradients[0] if gradients else None
    # One launch looks at each gradient once, and computes nothing that autograd could follow.
    part = None if first is None else _all_in_one_launch(gradients, first, wanted)
    return _by_route(gradients, wanted) if part is None else Measurement(wanted, len(gradients), (part,))


@torch.no_grad()
def _by_route(gradients: Sequence[Tensor | None], wanted: tuple[str, ...]) -> Measurement:
    """Measure gradients of any kind."""
    if any_sharded(gradients):
        gradients = [None if g is None else local(g) for g in gradients]
    first = next((g for g in gradients if g is not None), None)
    is_of_host = first is None or devices.is_on_host(first)
    parts: list[Part] = []
    rest: Sequence[int] = range(len(gradients))
    # The likelier first: each looks at every gradient that is left.
    for way in (_in_one_read, _in_one_launch) if is_of_host else (_in_one_launch, _in_one_read):
        if rest:
            found, rest = way(gradients, rest, wanted)
            parts += found
    if rest:
        parts += _by_device(gradients, rest, wanted)
    return Measurement(wanted, len(gradients), tuple(parts))


def _by_device(gradients: Sequence[Tensor | None], rest: Sequence[int], wanted: tuple[str, ...]) -> list[Part]:
    """Measure the gradients at these positions, those of one device together."""
    parts: list[Part] = []
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = defaultdict(list)
    for position in rest:
        gradient = gradients[position]
        if gradient is None:
            continue
        entries = entries_of(gradient)
        if entries is not None:
            by_device[entries.device].append((position, entries))
        elif (answers := ask_operators(gradient, wanted)) is not None:
            parts.append(Part([position], answers.unsqueeze(1), None))
    for group in by_device.values():
        positions = [position for position, _ in group]
        tensors = [tensor for _, tensor in group]
        if devices.is_on_host(tensors[0]):
            parts.append(Part(positions, _operators().on_cpu(tensors, wanted), None))
        else:
            parts += _on_accelerator(positions, tensors, wanted)
    return parts


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Measurement:
    """Measure the L2 norms alone.

    >>> norms([torch.tensor([3.0, 4.0])]).collect()["norm"].tolist()
    [5.0]
    """
    return measure(tensors, ("norm",))


@torch.no_grad()
def count_above(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Count the entries whose magnitude is over ``limit``: one count for each device, where it stays.

    One count, since each is copied to the host on its own.

    >>> [int(count) for count in count_above([torch.tensor([1.0, -3.0, 2.0]), torch.tensor([-2.0])], 1.5)]
    [3]
    """
    counts: dict[torch.device, list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        count = _count_above(local(gradient), limit)
        counts[count.device].append(count)
    return [torch.stack(of_device).sum() for of_device in counts.values()]


def _count_above(gradient: Tensor, limit: float) -> Tensor:
    entries = entries_of(gradient)
    return torch.count_nonzero((gradient if entries is None else entries).abs() > limit)


def reads_once(places: Iterable[torch.device]) -> bool:
    """Whether all four statistics of usual gradients on these devices come from one read.

    >>> reads_once([torch.device("meta")])
    False
    """
    return all(runs_triton(one, "read gradients") or (one.type == "cpu" and is_available()) for one in places)


def route_of(parameters: Sequence[Tensor | None]) -> str:
    """Return in words how the gradients of these parameters are read, for each kind of device where they lie.

    Asks no device. A single gradient of a kind that its route can't read is read by PyTorch's operators.

    >>> route_of([torch.ones(2, device="meta")])
    "PyTorch's operators on meta, whose results the recorder's thread waits for; zeros are counted every 16 steps"
    """
    kinds = sorted(
        {parameter.device.type: parameter.device for parameter in parameters if parameter is not None}.items()
    )
    if not kinds:
        kinds = [("cpu", torch.device("cpu"))]
    if is_available() and all(kind == "cpu" for kind, _ in kinds):
        return _COMPILED
    return "; ".join(_route_on(device) for _, device in kinds)


_COMPILED = "the compiled pass, all four statistics in one read"


def _route_on(device: torch.device) -> str:
    zeros = f"zeros are counted every {ZEROS_EVERY} steps"
    if device.type == "cpu":
        return f"{_COMPILED}, on the CPU" if is_available() else f"PyTorch's operators; {zeros}"
    how = (
        "whose results are copied behind the training"
        if devices.copies_behind(device)
        else "whose results the recorder's thread waits for"
    )
    if runs_triton(device, "read gradients"):
        return f"the Triton kernel on {device.type}, all four statistics in one read, {how}"
    return f"PyTorch's operators on {device.type}, {how}; {zeros}"


@torch.no_grad()
def whole(measured: Measurement, parameters: Sequence[Tensor | None]) -> Measurement:
    """Return norms and non-finite entries of whole gradients, where some are sharded over processes.

    Where a parameter is sharded (DTensor) this is a collective, and every process of its mesh has to make
    it. Otherwise ``measured`` is returned.

    Args:
        measured: by `measure`, of the parts of this process.
        parameters: one for each position of ``measured``.
    """
    if not any_sharded(parameters):
        return measured
    stats = tuple(name for name in ("norm", "nonfinite") if name in measured.stats)
    device = next((values.device for _, values in measured.norms()), torch.device("cpu"))
    table = _table_of(measured, stats, device)
    own_norms = table[0].clone()
    table[0] = own_norms.square()
    found = over_ranks(parameters, table)
    found[0] = found[0].sqrt()
    unsharded = [position for position, parameter in enumerate(parameters) if not is_sharded(parameter)]
    at = devices.places(unsharded, device)
    found[0].index_copy_(0, at, own_norms.index_select(0, at))
    present = measured.present if device.type != "cpu" else (found[2] > 0).nonzero().flatten().tolist()
    values = found[: len(stats)].index_select(1, devices.places(present, device))
    return Measurement(stats, len(parameters), (Part(present, values, None),))


def _table_of(measured: Measurement, stats: Sequence[str], device: torch.device) -> Tensor:
    """Return a (3, gradients) table: the statistics in the first rows, and 1 in the last where one is present."""
    table = torch.zeros(3, measured.length, dtype=devices.widest_float(device), device=device)
    for part in measured.parts:
        values = part.values if part.on_device is None else part.on_device
        at = devices.places(part.positions, device)
        for row, name in enumerate(stats):
            column = values[measured.stats.index(name)].to(table.dtype)
            table[row].index_copy_(0, at, devices.move(column, device))
        table[2].index_fill_(0, at, 1.0)
    return table


def _in_one_read(
    gradients: Sequence[Tensor | None], rest: Sequence[int], stats: tuple[str, ...]
) -> tuple[list[Part], Sequence[int]]:
    """Measure by the compiled pass, which reads the CPU alone; return the result and the positions that are left."""
    if not is_available():
        return [], rest
    found, measured = read(gradients)
    if measured is None:
        return [], rest
    table = measured.T
    values = torch.from_numpy(table if len(stats) == len(COLUMNS) else table[[COLUMNS.index(s) for s in stats]])
    return [Part(found.positions, values, None)], _left_of(rest, found.positions)


def _in_one_launch(
    gradients: Sequence[Tensor | None], rest: Sequence[int], stats: tuple[str, ...]
) -> tuple[list[Part], Sequence[int]]:
    """Measure plain gradients on CUDA devices by the Triton kernel; return the result and what is left."""
    first = gradients[rest[0]]
    if len(rest) == len(gradients) and first is not None:
        part = _all_in_one_launch(gradients, first, stats)
        if part is not None:
            return [part], ()
    of_device = _plain_by_device(gradients, rest)
    on_cuda = [device for device in of_device if runs_triton(device, "read gradients")]
    kernel = _kernel() if on_cuda else None
    if kernel is None:
        return [], rest
    parts: list[Part] = []
    done: list[int] = []
    for device in on_cuda:
        found = kernel.readable(of_device[device], gradients)
        if found.positions:
            parts.append(_by_triton(found.positions, found.gradients, stats, found))
            done += found.positions
    return parts, _left_of(rest, done)


def _all_in_one_launch(gradients: Sequence[Tensor | None], first: Tensor, stats: tuple[str, ...]) -> Part | None:
    """Measure by the Triton kernel if all gradients are plain and lie on the device of the first; else None.

    A quick look for the usual case: `entries_of`, which the others go through, costs the host several times as much.
    """
    if not runs_triton(first.device, "read gradients"):
        return None
    usual = _kernel().usual(gradients)  # type: ignore[union-attr]
    return None if usual is None else _by_triton(usual.positions, usual.gradients, stats, usual)


def _plain_by_device(gradients: Sequence[Tensor | None], rest: Sequence[int]) -> Mapping[torch.device, Sequence[int]]:
    """The positions of the plain gradients among these, of each device."""
    of_device: dict[torch.device, list[int]] = defaultdict(list)
    for at in rest:
        gradient = gradients[at]
        if gradient is not None and type(gradient) in PLAIN:
            of_device[gradient.device].append(at)
    return of_device


def _left_of(positions: Sequence[int], done: Sequence[int]) -> Sequence[int]:
    if len(done) == len(positions):  # as usual
        return ()
    found = set(done)
    return [position for position in positions if position not in found]


def _on_accelerator(positions: list[int], tensors: list[Tensor], stats: tuple[str, ...]) -> list[Part]:
    """Use Triton where it can read a tensor and PyTorch's operators elsewhere, without waiting for the device."""
    kernel = _kernel() if runs_triton(tensors[0].device, "read gradients") else None
    by_triton: list[int] = []
    by_operators: list[int] = []
    for index, tensor in enumerate(tensors):
        (by_triton if kernel is not None and kernel.can_read(tensor) else by_operators).append(index)
    parts = []
    if by_triton:
        parts.append(_by_triton([positions[i] for i in by_triton], [tensors[i] for i in by_triton], stats))
    if by_operators:
        values = _operators().on_device([tensors[i] for i in by_operators], stats)
        parts.append(to_host([positions[i] for i in by_operators], values))
    return parts


def runs_triton(device: torch.device, part: TritonPart) -> bool:
    """Whether one of Triton's kernels runs on a device, as far as is known.

    >>> runs_triton(torch.device("cpu"), "read gradients")
    False
    """
    return device.type in _TRITON_DEVICES and part not in _failed and _kernel() is not None


def leave_triton(part: TritonPart, error: Exception) -> None:
    """Do without one of Triton's kernels from now on, since it did not compile or start. The others go on."""
    if part not in _failed:
        _failed.add(part)
        logger.warning("Triton can't %s here, so gradwatch uses PyTorch's operators: %s (triton-not-used)", part, error)


def _kernel() -> ModuleType | None:
    """Return the Triton kernel; it is loaded with the first gradient on a CUDA device.

    Looking for a device earlier would initialise CUDA before the script has said how.
    """
    global _triton  # noqa: PLW0603
    if _triton is _NOT_TRIED:
        try:
            from gradwatch.measure import fused_triton

            _triton = fused_triton
        except ImportError:
            _triton = None
    return _triton


def _operators() -> ModuleType:
    """Return the statistics by PyTorch's operators, whose code a training on the CPU does without."""
    from gradwatch.measure import operators

    return operators


def _by_triton(positions: list[int], tensors: list[Tensor], stats: tuple[str, ...], found: Any = None) -> Part:
    """Measure by the kernel, or by PyTorch's operators if it fails; ``found`` is what it knows of the tensors."""
    assert _triton is not None
    try:
        table: Tensor = _triton.measure_triton(tensors, found)
    except Exception as error:
        leave_triton("read gradients", error)
        with torch.no_grad():
            return to_host(positions, _operators().on_device(tensors, stats))
    if stats != COLUMNS[: len(stats)]:
        # By slices: an index would be copied to the device from memory that is not pinned, and that copy waits.
        return to_host(positions, torch.stack([table[:, COLUMNS.index(stat)] for stat in stats]))
    # All of it is copied, as it lies: to choose on the device takes one more launch than to do so on the host.
    part = to_host(positions, table)
    values = part.values.T if len(stats) == len(COLUMNS) else part.values.T[: len(stats)]
    return Part(positions, values, part.ready, None if part.on_device is None else table.T)


def scale_in_one_launch(gradients: Sequence[Tensor], coefficient: Tensor) -> Sequence[Tensor]:
    """Multiply gradients of one device and dtype by a coefficient on it, where Triton can; return those that are left.

    Nothing is read or written where the coefficient is 1.

    >>> gradient = torch.tensor([3.0, 4.0])
    >>> scale_in_one_launch([gradient], torch.tensor(0.5)) == [gradient]  # on the host Triton has nothing to do
    True
    """
    kernel = _kernel() if runs_triton(gradients[0].device, "scale gradients") else None
    if kernel is None or coefficient.numel() != 1:
        return gradients
    found = kernel.readable([at for at, one in enumerate(gradients) if type(one) in PLAIN], gradients)
    # Memory that is listed twice is multiplied twice by PyTorch. Two programs at once would race for it.
    if not found.positions or _repeat(found.addresses.tolist()):
        return gradients
    try:
        kernel.scale_triton(found, coefficient)
    except Exception as error:
        leave_triton("scale gradients", error)
        return gradients
    return [gradients[at] for at in _left_of(range(len(gradients)), found.positions)]


def _repeat(addresses: Sequence[int]) -> bool:
    """Whether an address is listed twice; 0 is that of gradients without entries."""
    return len(set(addresses)) < len(addresses) - max(0, addresses.count(0) - 1)


def to_host(positions: list[int], values: Tensor) -> Part:
    """Begin to copy results to the host, with an event that says when they are there."""
    host, ready = devices.begin_marked_copy(values)
    return Part(positions, host, ready, None if ready is None else values)
