"""PyTorch Lightning: a callback for `Trainer(callbacks=[...])`."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradwatch.integrations import folder_for, require
from gradwatch.recording.attach import attach
from gradwatch.recording.hyperparameters import settings_if_any
from gradwatch.recording.watch import Watch

require({"lightning": (2, 2), "pytorch-lightning": (2, 2)})

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]

logger = logging.getLogger("gradwatch")


class GradWatchCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Records a fit, from its first optimizer step to its last.

    The loss of a step is the value Lightning calls `backward` on; the step is `trainer.global_step`.
    ``val_loss``, if the module logs it, is the validation loss. The module's ``hparams`` are the run's config. In a
    distributed fit rank 0 writes the run. A fit without an optimizer is not recorded; a warning says so and the fit
    goes on.

    Args:
        run: the folder to record into; by default ``gradwatch`` in the logger's folder.
        options: those of `gradwatch.attach`. With ``clip``, leave Lightning's ``gradient_clip_val`` out.
    """

    def __init__(self, run: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.watch: Watch | None = None
        self._run = None if run is None else Path(run)
        self._options = options

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach. By now the optimizers exist and a checkpoint is loaded."""
        self._close("closed")
        # Lightning puts a stand-in without parameters where `configure_optimizers` returned None.
        if not any(group["params"] for optimizer in trainer.optimizers for group in optimizer.param_groups):
            self.watch = None
            logger.warning("This fit has no optimizer, so gradwatch records nothing (nothing-to-record)")
            return
        folder = folder_for(self._run, Path(trainer.log_dir or trainer.default_root_dir), trainer.global_step)
        wrapped = trainer.strategy.model
        # With several optimizers `global_step` counts the steps of all of them.
        first = {"first_step": trainer.global_step} if len(trainer.optimizers) == 1 else {}
        total = trainer.estimated_stepping_batches  # infinite without a limit on steps or epochs
        length = {"total_steps": int(total)} if first and 1 <= total < math.inf else {}
        model = wrapped if isinstance(wrapped, nn.Module) else pl_module
        config = {"config": settings_if_any(getattr(pl_module, "hparams", None))}
        self.watch = attach(model, trainer.optimizers, folder, **(config | first | length | self._options))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure. Lightning calls this within the step's closure, before it clips; gradients are unscaled by then."""
        if self.watch is not None:
            self.watch.gradients_ready(optimizer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep ``val_loss`` of a validation within the fit; the check before its first step is none."""
        if self.watch is not None and not trainer.sanity_checking:
            self.watch.log(validation_loss=trainer.callback_metrics.get("val_loss"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close("closed")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(f"exception {type(exception).__name__}")

    def _close(self, reason: str) -> None:
        if self.watch is not None:
            self.watch.close(reason)
