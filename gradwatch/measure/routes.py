"""The statistics of gradients by PyTorch's own operators.

On the CPU the results are on the host at once, and what the cheap pass could not see right (a sum
of squares that overflowed or underflowed, the number of non-finite entries) is looked at again
where it happened. On an accelerator nothing waits: results stay on the device until `collect`.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.fused import COLUMNS, is_available, measure_fused, types_of
from gradwatch.measure.sharded import any_sharded, is_sharded, local, over_ranks
from gradwatch.record import STATS

logger = logging.getLogger("gradwatch")

_TRITON_DEVICES = {"cuda"}
_not_tried = ModuleType("not tried")
_triton: ModuleType | None = _not_tried

# Below this magnitude squares come near the smallest float32 and the sum of them loses digits.
_TINY = 1e-15
_ROW = 1024  # so many squares are added in float32
_SHORT = 32 * _ROW  # entries of a tensor that is read together with others
_SPACE = 128 * _ROW  # entries that are read together


@dataclass(frozen=True, slots=True)
class _Part:
    """The statistics of the gradients of one device: a (statistics, gradients) tensor."""

    positions: list[int]
    values: Tensor  # on the host where ``ready`` says when the copy will be there
    ready: torch.cuda.Event | None
    on_device: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Statistics of a list of gradients, some perhaps still on their device."""

    stats: tuple[str, ...]
    length: int
    parts: tuple[_Part, ...]

    def collect(self) -> dict[str, NDArray[np.float64]]:
        """Each statistic as a float64 array, NaN where there was no gradient.

        Waits for the device; call it away from the training thread.
        """
        table = np.full((len(self.stats), self.length), np.nan)
        for part in self.parts:
            if part.ready is not None:
                part.ready.synchronize()
            values = part.values.cpu().double().numpy()
            if len(part.positions) == self.length:
                table[:] = values  # every one, in order
            else:
                table[:, part.positions] = values
        return dict(zip(self.stats, table, strict=True))

    @staticmethod
    def of_positions(found: Mapping[int, Measurement], length: int, stats: tuple[str, ...]) -> Measurement:
        """One of ``length`` gradients from those of single ones, by position."""
        parts = (_Part([at], part.values, part.ready) for at, one in found.items() for part in one.parts)
        return Measurement(stats, length, tuple(parts))

    @property
    def is_here(self) -> bool:
        """Whether `collect` has no device to wait for."""
        return all(part.ready is None and part.values.device.type == "cpu" for part in self.parts)

    def has_nonfinite(self) -> bool:
        """Whether an entry is NaN or infinite, where `is_here`."""
        row = self.stats.index("norm")
        if all(bool(np.isfinite(part.values[row].numpy()).all()) for part in self.parts):
            return False
        found = self.collect()
        if "nonfinite" in found:
            return bool(np.nansum(found["nonfinite"]))
        return not np.isfinite(found["norm"][self.present]).all()

    def total_on_device(self) -> Tensor:
        """The L2 norm of all, in float64 on the device of the first, without waiting for it."""
        columns = [norms.double() for _, norms in self.norms()]
        here: list[Tensor] = [column.to(columns[0].device, non_blocking=True) for column in columns]
        norm: Tensor = torch.linalg.vector_norm(torch.cat(here))
        return norm

    def norms(self) -> list[tuple[list[int], Tensor]]:
        """The norms of the gradients of each device, on it, without waiting, with their positions."""
        row = self.stats.index("norm")
        return [(p.positions, (p.values if p.on_device is None else p.on_device)[row]) for p in self.parts]

    @property
    def present(self) -> list[int]:
        """The positions at which there was a gradient."""
        return [position for part in self.parts for position in part.positions]


@torch.no_grad()
def measure(gradients: Sequence[Tensor | None], stats: Sequence[str] = STATS) -> Measurement:
    """Measure every gradient; call it before clipping.

    Clipping by a NaN norm turns every gradient into NaN, and the parameter at fault can no longer
    be told apart.

    Args:
        gradients: any shapes, dtypes and devices; None where a parameter has no gradient. Sparse
            gradients are coalesced first, complex ones count as pairs of reals; of one that is
            sharded over processes (DTensor) the part that is here is measured.
        stats: which of `gradwatch.record.STATS`.

    >>> found = measure([torch.tensor([3.0, -4.0, 0.0]), None, torch.tensor([float("nan")])]).collect()
    >>> found["norm"].tolist()
    [5.0, nan, nan]
    >>> found["abs_max"].tolist()[0], found["nonfinite"].tolist(), found["zeros"].tolist()
    (4.0, [0.0, nan, 1.0], [1.0, nan, 0.0])
    """
    wanted = tuple(name for name in STATS if name in stats)
    if any_sharded(gradients):
        gradients = [None if g is None else local(g) for g in gradients]
    parts, rest = _in_one_read(gradients, wanted)
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = defaultdict(list)
    for position in rest:
        gradient = gradients[position]
        if gradient is not None:
            by_device[gradient.device].append((position, _entries(gradient)))
    for device, group in by_device.items():
        positions = [position for position, _ in group]
        tensors = [tensor for _, tensor in group]
        if device.type == "cpu":
            parts.append(_Part(positions, _on_cpu(tensors, wanted), None))
        else:
            parts += _on_accelerator(positions, tensors, wanted)
    return Measurement(wanted, len(gradients), tuple(parts))


def _in_one_read(gradients: Sequence[Tensor | None], stats: tuple[str, ...]) -> tuple[list[_Part], Sequence[int]]:
    """What the compiled pass measures, and the positions of what it can't."""
    if not is_available():
        return [], range(len(gradients))
    types = types_of(gradients)
    positions = [position for position, kind in enumerate(types) if kind is not None]
    if not positions:
        return [], range(len(gradients))
    table = measure_fused(
        [
            gradient
            for gradient, kind in zip(gradients, types, strict=True)
            if kind is not None and gradient is not None
        ],
        [kind for kind in types if kind is not None],
    )
    values = torch.from_numpy(table.T if len(stats) == len(COLUMNS) else table.T[[COLUMNS.index(s) for s in stats]])
    rest = () if len(positions) == len(gradients) else [p for p, kind in enumerate(types) if kind is None]
    return [_Part(positions, values, None)], rest


ZEROS_EVERY = 16
"""Without the compiled pass zeros are counted at each step whose number this divides: alone they cost as much
as the other three together."""


def reads_once(parameters: Sequence[Tensor | None]) -> bool:
    """Whether the gradients of these parameters are measured in one read by the compiled pass."""
    return is_available() and all(p is None or p.is_cpu for p in parameters)


def total(norms: NDArray[np.float64]) -> float:
    """The L2 norm of all gradients from the norms of each that is there; NaN where one of them is.

    Scaled by the largest, so that it overflows only where the result itself does.

    >>> f"{total(np.array([3e200, 4e200])):.6g}"
    '5e+200'
    """
    largest = float(np.max(norms, initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return float(largest * np.sqrt(np.sum(np.square(norms / largest))))


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Measurement:
    """The L2 norms alone.

    >>> norms([torch.tensor([3.0, 4.0])]).collect()["norm"].tolist()
    [5.0]
    """
    return measure(tensors, ("norm",))


@torch.no_grad()
def count_above(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """For each gradient the number of entries whose magnitude is over ``limit``, on its device.

    >>> [int(count) for count in count_above([torch.tensor([1.0, -3.0, 2.0])], 1.5)]
    [2]
    """
    return [torch.count_nonzero(_entries(local(gradient)).abs() > limit) for gradient in gradients]


@torch.no_grad()
def whole(measured: Measurement, parameters: Sequence[Tensor | None]) -> Measurement:
    """Norms and non-finite entries of whole gradients, where ``measured`` is of the parts that are here.

    Where a parameter is sharded (DTensor) that is a collective, which every process of its mesh has to
    make; otherwise ``measured`` is returned.

    Args:
        measured: by `measure`, of the gradients of ``parameters``.
        parameters: one for each position.
    """
    if not any_sharded(parameters):
        return measured
    sharded = [position for position, parameter in enumerate(parameters) if is_sharded(parameter)]
    stats = tuple(name for name in ("norm", "nonfinite") if name in measured.stats)
    device = next((values.device for _, values in measured.norms()), torch.device("cpu"))
    table = torch.zeros(3, len(parameters), dtype=torch.float64, device=device)
    for part in measured.parts:
        values = part.values if part.on_device is None else part.on_device
        for row, name in enumerate(stats):
            table[row, part.positions] = values[measured.stats.index(name)].double().to(device)
        table[2, part.positions] = 1.0
    own = table[0].clone()
    table[0] = own.square()
    found = over_ranks(parameters, table)
    found[0] = found[0].sqrt()
    unsharded = [position for position in range(len(parameters)) if position not in set(sharded)]
    found[0, unsharded] = own[unsharded]
    present = measured.present if device.type != "cpu" else (found[2] > 0).nonzero().flatten().tolist()
    return Measurement(stats, len(parameters), (_Part(present, found[: len(stats), present], None),))


def _entries(gradient: Tensor) -> Tensor:
    """The stored entries of a gradient as a dense real tensor, a view wherever that is possible."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _on_accelerator(positions: list[int], tensors: list[Tensor], stats: tuple[str, ...]) -> list[_Part]:
    """By Triton what it can read, by PyTorch's operators the rest; nobody waits."""
    kernel = _kernel() if tensors[0].device.type in _TRITON_DEVICES else None
    fit = [kernel is not None and kernel.can_read(t) for t in tensors]
    parts = []
    for by_triton in (True, False):
        chosen = [i for i, fits in enumerate(fit) if fits is by_triton]
        if not chosen:
            continue
        group = [tensors[i] for i in chosen]
        values = _by_triton(group, stats) if by_triton else _on_device(group, stats)
        parts.append(_copied([positions[i] for i in chosen], values))
    return parts


def _kernel() -> ModuleType | None:
    """The Triton kernel, loaded with the first gradient on a CUDA device.

    To look for a device earlier would initialise CUDA, before the script has said how.
    """
    global _triton  # noqa: PLW0603
    if _triton is _not_tried:
        try:
            from gradwatch.measure import fused_triton

            _triton = fused_triton
        except ImportError:
            _triton = None
    return _triton


def _by_triton(tensors: list[Tensor], stats: tuple[str, ...]) -> Tensor:
    global _triton  # noqa: PLW0603
    assert _triton is not None
    try:
        table: Tensor = _triton.measure_triton(tensors)
    except Exception as error:
        _triton = None
        logger.warning("Triton can't read gradients here, PyTorch's operators do: %s (triton-not-used)", error)
        return _on_device(tensors, stats)
    return table[:, [COLUMNS.index(stat) for stat in stats]].T


def pinned_copy(values: Tensor) -> Tensor:
    """A copy on the host of what lies on a CUDA device, begun but perhaps not there yet; nobody waits."""
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values.detach(), non_blocking=True)


def _copied(positions: list[int], values: Tensor) -> _Part:
    """From a CUDA device into pinned memory, with an event that says when it is there."""
    if values.device.type != "cuda":
        return _Part(positions, values, None)
    host = pinned_copy(values)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(values.device))
    return _Part(positions, host, event, values)


def _foreach_norms(tensors: list[Tensor]) -> list[Tensor]:
    """One norm a tensor, float16 and bfloat16 accumulated in float32."""
    by_dtype: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        by_dtype[tensor.dtype].append(index)
    found: list[Tensor] = [tensors[0]] * len(tensors)
    for dtype, indices in by_dtype.items():
        group = torch._foreach_norm([tensors[index] for index in indices], 2, dtype=_wide(dtype))
        for index, norm in zip(indices, group, strict=True):
            found[index] = norm
    return found


def _on_cpu(tensors: list[Tensor], stats: tuple[str, ...]) -> Tensor:
    found = torch.zeros(2, len(tensors), dtype=torch.float64, device="cpu")
    with_largest = "abs_max" in stats
    short: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        if tensor.numel() <= _SHORT:
            short[_wide(tensor.dtype)].append(index)
        else:
            found[:, index] = _long(tensor, with_largest)
    for dtype, indices in short.items():
        found[:, indices] = _short([tensors[index] for index in indices], dtype, with_largest)
    norm, largest = found
    suspect = ~torch.isfinite(norm)
    if with_largest:
        suspect |= (largest > 0) & (largest < _TINY)
    nonfinite = torch.zeros_like(norm)
    for index in suspect.nonzero().flatten().tolist():
        nonfinite[index] = torch.isfinite(tensors[index]).logical_not().sum()
        if nonfinite[index] == 0:
            norm[index] = _careful_norm(tensors[index].double())
    columns: dict[str, Callable[[], Tensor]] = {
        "norm": lambda: norm,
        "abs_max": lambda: largest,
        "nonfinite": lambda: nonfinite,
        "zeros": lambda: torch.tensor(
            [float(t.numel() - int(torch.count_nonzero(t))) for t in tensors], dtype=torch.float64, device="cpu"
        ),
    }
    return torch.stack([columns[name]() for name in stats])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In what squares are added."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _long(tensor: Tensor, with_largest: bool) -> Tensor:
    """Norm and largest magnitude, right to 1e-6 however many entries there are.

    PyTorch adds the squares of a whole tensor in a few float32 lanes: of four million equal entries
    the norm is 2e-3 off. They are therefore taken row by row, which costs no more.
    """
    extremes = torch.stack(torch.aminmax(tensor)).double().abs() if with_largest else tensor.new_zeros(1).double()
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        whole = flat.numel() // _ROW * _ROW
        rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1, dtype=_wide(tensor.dtype))
        rest = torch.linalg.vector_norm(flat[whole:], dtype=torch.float64)
        norm = (torch.linalg.vector_norm(rows, dtype=torch.float64).square() + rest.square()).sqrt()
    else:
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return torch.stack((norm, extremes.amax()))


def _short(tensors: list[Tensor], dtype: torch.dtype, with_largest: bool) -> Tensor:
    """The same of many: they are laid side by side in a space of the size of a processor's cache, as many as it holds.

    An operator for each tensor would cost several times what it takes to read them.
    """
    space = torch.empty(_SPACE, dtype=dtype, device="cpu")
    padding = torch.zeros(_ROW, dtype=dtype, device="cpu")
    rows_of = [-(-tensor.numel() // _ROW) for tensor in tensors]
    parts: list[Tensor] = []
    laid: list[Tensor] = []
    room = 0

    def read() -> None:
        rows = torch.cat(laid, out=space[: room * _ROW]).view(-1, _ROW)
        norms = torch.linalg.vector_norm(rows, dim=1)
        parts.append(torch.stack((norms, rows.abs_().amax(dim=1))) if with_largest else norms.unsqueeze(0))

    for tensor, rows in zip(tensors, rows_of, strict=True):
        if (room + rows) * _ROW > _SPACE:
            read()
            laid, room = [], 0
        laid.append(tensor.reshape(-1))
        if gap := rows * _ROW - tensor.numel():
            laid.append(padding[:gap])
        room += rows
    if room:
        read()
    found = torch.zeros(2, len(tensors), dtype=torch.float64, device="cpu")
    owner = torch.repeat_interleave(torch.tensor(rows_of, device="cpu"))
    rows_found = torch.cat(parts, dim=1).double() if parts else found[:, :0]
    found[0].index_add_(0, owner, rows_found[0].square()).sqrt_()
    if with_largest:
        found[1].scatter_reduce_(0, owner, rows_found[1], "amax")
    return found


def _on_device(tensors: list[Tensor], stats: tuple[str, ...]) -> Tensor:
    columns: dict[str, Callable[[], list[Tensor]]] = {
        "norm": lambda: _foreach_norms(tensors),
        "abs_max": lambda: [t.abs().amax() if t.numel() else t.new_zeros(()) for t in tensors],
        "nonfinite": lambda: [torch.isfinite(t).logical_not().sum() for t in tensors],
        "zeros": lambda: [t.numel() - torch.count_nonzero(t) for t in tensors],
    }
    return torch.stack([torch.stack([v.float() for v in columns[name]()]) for name in stats])


def _careful_norm(tensor: Tensor) -> Tensor:
    """The norm of finite float64 entries, without overflow or underflow on the way."""
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    scale = tensor.abs().max()
    return scale if scale == 0 else torch.linalg.vector_norm(tensor / scale) * scale
