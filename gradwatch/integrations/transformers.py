"""Hugging Face Transformers: a callback for `Trainer(callbacks=[...])`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradwatch.integrations import folder_for, require
from gradwatch.recording.attach import attach
from gradwatch.recording.hyperparameters import settings_if_any
from gradwatch.recording.watch import Watch

require({"transformers": (4, 46)})

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402


class GradWatchCallback(TrainerCallback):
    """Records a training by `Trainer`, from its first optimizer step to its last.

    A Trainer calls its callbacks after clipping. The recorded norms are those before clipping all the same,
    because they are measured at the clip call. The loss of a step is the value `backward` was called on.
    ``eval_loss`` is the validation loss. The training arguments are the run's config. In a distributed training rank 0
    writes the run.

    Args:
        run: the folder to record into; by default ``gradwatch`` in the output folder.
        options: those of `gradwatch.attach`. With ``clip``, set the Trainer's ``max_grad_norm=0``.
    """

    def __init__(self, run: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.watch: Watch | None = None
        self._run = None if run is None else Path(run)
        self._options = options

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach. By now the optimizer exists and a checkpoint is loaded."""
        self._close()
        model: nn.Module = kwargs["model"]
        optimizer: Optimizer = kwargs["optimizer"]
        folder = folder_for(self._run, Path(str(args.output_dir)), state.global_step)
        known: dict[str, Any] = {
            "first_step": state.global_step,
            "total_steps": state.max_steps if state.max_steps > 0 else None,
            "config": settings_if_any(args),
        }
        self.watch = attach(model, optimizer, folder, **(known | self._options))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the loss of an evaluation within the training."""
        if self.watch is not None:
            self.watch.log(validation_loss=(kwargs.get("metrics") or {}).get("eval_loss"))

    def _close(self) -> None:
        if self.watch is not None:
            self.watch.close()
