"""The gradient of this process as DistributedDataParallel is about to reduce it over all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.measure import Measurement, measure

logger = logging.getLogger("gradwatch")


class BeforeReduction:
    """Measures what a DistributedDataParallel module is about to reduce, bucket by bucket, and reduces it.

    PyTorch offers no way to remove such a hook; after `close` it only reduces.
    """

    def __init__(self, module: nn.Module) -> None:
        """Raises RuntimeError where the module has a hook already."""
        self._open = True
        self._measured: list[Measurement] = []
        self._last: tuple[Measurement, ...] = ()
        group: Any = module.process_group
        self._group, self._share = group, 1.0 / group.size()

        def hook(_, bucket):  # type: ignore[no-untyped-def]  # PyTorch wants no annotations that it does not know
            return self._reduce(bucket)

        module.register_comm_hook(None, hook)  # type: ignore[operator]

    def close(self) -> None:
        self._open, self._measured, self._last = False, [], ()

    def take(self) -> tuple[Measurement, ...]:
        """Norm and non-finite entries of each bucket of the last reduction; nothing where it has been taken."""
        last, self._last = self._last, ()
        return last

    def _reduce(self, bucket: Any) -> torch.futures.Future[Tensor]:
        buffer: Tensor = bucket.buffer()
        if self._open:
            self._measure(buffer, bucket.index() == 0, bucket.is_last())
        # What DistributedDataParallel does without a hook, to the bit.
        buffer.mul_(self._share)
        reduced = torch.distributed.all_reduce(buffer, group=self._group, async_op=True)
        future: torch.futures.Future[Tensor] = reduced.get_future().then(lambda done: done.value()[0])
        return future

    def _measure(self, buffer: Tensor, is_first: bool, is_last: bool) -> None:
        try:
            if is_first:
                self._measured = []
            self._measured.append(measure([buffer], ("norm", "nonfinite")))
            if is_last:
                self._last = tuple(self._measured)
        except Exception as error:
            self.close()
            logger.warning("gradwatch no longer measures before the reduction: %s (ranks-not-heard)", error)


class Reductions:
    """What is measured before the reductions of all models of a recording."""

    def __init__(self, models: Iterable[nn.Module] = ()) -> None:
        """Listen to each DistributedDataParallel module in the models."""
        self._each = [one for model in models for one in _listen_to(model)]

    def take(self) -> tuple[Measurement, ...]:
        """Norm and non-finite entries of the last gradients of this process, unless they were taken before."""
        return tuple(measured for one in self._each for measured in one.take())

    def close(self) -> None:
        for one in self._each:
            one.close()


def _listen_to(model: nn.Module) -> list[BeforeReduction]:
    found = []
    for module in model.modules():
        if type(module).__name__ == "DistributedDataParallel":
            try:
                found.append(BeforeReduction(module))
            except RuntimeError as error:
                logger.warning(
                    "gradwatch can't see the gradients before they are reduced: %s (ranks-not-heard)",
                    str(error).splitlines()[0],
                )
    return found
