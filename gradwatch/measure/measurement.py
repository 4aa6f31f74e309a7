"""The statistics of a list of gradients, as they come from the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.devices import Ready, is_on_host, join


class Part(NamedTuple):
    """The statistics of the gradients of one device: a (statistics, gradients) tensor."""

    positions: list[int]
    values: Tensor  # on the host; complete once ``ready`` says so
    ready: Ready | None
    on_device: Tensor | None = None  # the same, where it was computed; further rows may follow


class Measurement(NamedTuple):
    """Statistics of a list of gradients; some may still be on their device.

    Attributes:
        stats: names of the statistics, of `gradwatch.record.STATS`, in that order.
        length: how many gradients the list has, absent ones included.
        parts: what was measured, by device.
    """

    stats: tuple[str, ...]
    length: int
    parts: tuple[Part, ...]

    def collect(self) -> dict[str, NDArray[np.float64]]:
        """Return each statistic as a float64 array of ``length`` entries, NaN where there was no gradient.

        They are the rows of `table`.
        """
        return dict(zip(self.stats, self.table(), strict=True))

    def table(self) -> NDArray[np.float64]:
        """Return the statistics as an array (statistics, gradients), NaN where there was no gradient.

        Waits for the device. Call it outside the training thread. Do not write to it: where every gradient was measured
        in one go, it is the measurement itself.
        """
        if self.is_whole:
            return _on_host(self.parts[0])
        table = np.full((len(self.stats), self.length), np.nan)
        for part in self.parts:
            table[:, part.positions] = _on_host(part)
        return table

    def read(self) -> tuple[list[int], NDArray[np.float64]]:
        """Return the positions of the gradients that are there, ascending, and their columns of `table`."""
        if len(self.parts) == 1 and all(map(int.__lt__, self.parts[0].positions, self.parts[0].positions[1:])):
            return self.parts[0].positions, _on_host(self.parts[0])
        at = sorted(self.present)
        return at, self.table()[:, at]

    @staticmethod
    def of_positions(found: Mapping[int, Measurement], length: int, stats: tuple[str, ...]) -> Measurement:
        """Join measurements of single gradients, given by position, into one of ``length`` gradients."""
        parts = (Part([at], part.values, part.ready) for at, one in found.items() for part in one.parts)
        return Measurement(stats, length, tuple(parts))

    @property
    def is_here(self) -> bool:
        """Whether `collect` has no device to wait for."""
        return all(part.ready is None and is_on_host(part.values) for part in self.parts)

    @property
    def has_arrived(self) -> bool:
        """Whether `collect` would not wait now: what has a copy on its way has it on the host."""
        return all(is_on_host(part.values) and (part.ready is None or part.ready.query()) for part in self.parts)

    @property
    def is_whole(self) -> bool:
        """Whether every gradient is there and was measured on one device, in order."""
        return len(self.parts) == 1 and len(self.parts[0].positions) == self.length

    def has_nonfinite(self) -> bool:
        """Whether an entry is NaN or infinite. Call it where `is_here`."""
        row = self.stats.index("norm")
        # One NaN or infinite norm makes the largest so; a sum of huge ones would overflow, with a warning.
        if all(math.isfinite(part.values.numpy()[row].max(initial=0.0)) for part in self.parts):
            return False
        found = self.collect()
        if "nonfinite" in found:
            return bool(np.nansum(found["nonfinite"]))
        return not np.isfinite(found["norm"][self.present]).all()

    def total_on_device(self) -> Tensor:
        """Return the L2 norm of all gradients, without waiting, in the widest type of the device.

        It is computed on the first accelerator that has gradients. The host would have to wait for the others.
        """
        norm: Tensor = torch.linalg.vector_norm(join([norms for _, norms in self.norms()]))
        return norm

    def norms(self) -> list[tuple[list[int], Tensor]]:
        """Return, for each device, the positions of its gradients and their norms, without waiting."""
        row = self.stats.index("norm")
        return [(p.positions, (p.values if p.on_device is None else p.on_device)[row]) for p in self.parts]

    @property
    def present(self) -> list[int]:
        """The positions that have a gradient."""
        if len(self.parts) == 1:  # as nearly always, and there may be thousands
            return self.parts[0].positions
        return [position for part in self.parts for position in part.positions]


def _on_host(part: Part) -> NDArray[np.float64]:
    """The statistics of a part, after waiting for its device."""
    if part.ready is not None and not part.ready.query():
        part.ready.synchronize()
    values = part.values
    if values.dtype != torch.float64 or not is_on_host(values):
        values = values.cpu().double()
    table: NDArray[np.float64] = values.numpy()
    return table
