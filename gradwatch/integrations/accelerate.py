"""Hugging Face Accelerate: `attach` for what `accelerator.prepare` returned."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from gradwatch.integrations import require
from gradwatch.recording.watch import Optimizers, Watch
from gradwatch.recording.watch import attach as attach_here

require({"accelerate": (0, 30)})

from accelerate import Accelerator  # noqa: E402


def attach(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizers, run: str | os.PathLike[str], **options: Any
) -> Watch:
    """Record the training of a prepared model by prepared optimizers; call it in every process.

    `accelerator.backward`, its clip calls, its scaler and its accumulation are seen as they are; a
    step is recorded where the optimizer steps, not at every micro-batch.

    Args:
        accelerator: its rank 0 writes the run.
        model: what `accelerator.prepare` returned, or was given.
        optimizer: likewise.
        run: a folder.
        options: those of `gradwatch.attach`.
    """
    return attach_here(model, optimizer, run, **options)
