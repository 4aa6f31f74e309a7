"""Hugging Face Accelerate: `attach` for what `accelerator.prepare` returned."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from torch import nn

from gradwatch.integrations import require
from gradwatch.watch import Optimizers, Watch
from gradwatch.watch import attach as attach_here

require({"accelerate": (0, 30)})

from accelerate import Accelerator  # noqa: E402


class Elsewhere:
    """Stands for the watch in the processes that do not record."""

    steps = 0

    def log(self, **values: object) -> None:
        """The process that records logs."""

    def flush(self, timeout: float = 10.0) -> bool:
        return True

    def close(self, reason: str = "closed") -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def attach(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizers, run: str | os.PathLike[str], **options: Any
) -> Watch | Elsewhere:
    """Record the training of a prepared model by prepared optimizers, in the main process.

    `accelerator.backward`, its clip calls, its scaler and its accumulation are seen as they are; a
    step is recorded where the optimizer steps, not at every micro-batch.

    Args:
        accelerator: tells which process is the main one.
        model: what `accelerator.prepare` returned, or was given.
        optimizer: likewise.
        run: a folder.
        options: those of `gradwatch.attach`.
    """
    if not accelerator.is_main_process:
        return Elsewhere()
    return attach_here(accelerator.unwrap_model(model), optimizer, run, **options)
