"""Hugging Face Accelerate: `attach` for models and optimizers that `accelerator.prepare` returned."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from gradwatch.integrations import require
from gradwatch.recording.attach import Optimizers
from gradwatch.recording.attach import attach as attach_here
from gradwatch.recording.watch import Watch

require({"accelerate": (0, 30)})

from accelerate import Accelerator  # noqa: E402


def attach(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizers, run: str | os.PathLike[str], **options: Any
) -> Watch:
    """Record the training of a prepared model by prepared optimizers. Call it in every process.

    gradwatch sees `accelerator.backward`, its clip calls, its gradient scaler and its accumulation. It
    records a step when the optimizer steps, not at every micro-batch.

    Args:
        accelerator: rank 0 of its processes writes the run.
        model: as passed to `accelerator.prepare` or as returned by it.
        optimizer: one or several, prepared or not.
        run: the folder to record into.
        options: those of `gradwatch.attach`.
    """
    return attach_here(model, optimizer, run, **options)
