"""Keras 3 on PyTorch: a callback for `model.fit(callbacks=[...])`."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.clip import Clipping
from gradwatch.clip.policy import InLoop
from gradwatch.clip.scale import shrunk, total_norm
from gradwatch.errors import BadArgument, UnsupportedVersion
from gradwatch.integrations import require
from gradwatch.measure import Measurement, count_above
from gradwatch.recording.attach import attach
from gradwatch.recording.watch import Watch

require({"keras": (3, 3)})

import keras  # noqa: E402

logger = logging.getLogger("gradwatch")

CLIPS, UPDATES, SCALES = "_clip_gradients", "_backend_update_step", "scale_loss"
"""The methods of a Keras optimizer that clip, that make the update from what is clipped, and that scale the loss."""

REFUSED = ("capture", "skip_nonfinite", "ranks")
"""Options of `attach` that need PyTorch's own optimizers and modules."""


class GradWatchCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Records a training by `model.fit`, from its first update to its last.

    Keras has its own optimizers, which do not trigger PyTorch's hooks. This callback records each update of the
    model's optimizer: the gradients before Keras clips them, and the clipping by ``clipnorm``, ``global_clipnorm`` or
    ``clipvalue``. With ``gradient_accumulation_steps`` an update is a step, and its gradients are the accumulated ones.
    Updates that a `keras.optimizers.LossScaleOptimizer` leaves out are not recorded. ``val_loss`` is the validation
    loss.

    Args:
        run: the folder to record into. A second `fit` continues the run.
        options: those of `gradwatch.attach`, except capture, skip_nonfinite and ranks.

    Raises:
        UnsupportedVersion: Keras does not run on PyTorch, or its optimizers are built in an unknown way.
    """

    def __init__(self, run: str | os.PathLike[str], **options: Any) -> None:
        super().__init__()
        if keras.backend.backend() != "torch":
            raise UnsupportedVersion(
                f"Keras runs on {keras.backend.backend()}; gradwatch records PyTorch. Set KERAS_BACKEND=torch."
            )
        refused = [name for name in REFUSED if options.get(name)]
        if refused:
            raise BadArgument(f"{refused[0]} is not supported with Keras. Leave it out.")
        self.watch: Watch | None = None
        self._run, self._options = Path(run).absolute(), options
        self._updates: _Updates | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Listen to the updates of the model's optimizer; attach when the first is made."""
        self._close()
        optimizer = self.model.optimizer
        self._updates = _Updates(optimizer, self._attach)
        if getattr(self._updates.optimizer, "built", False):
            self._updates.begin()  # before the first backward pass, whose loss belongs to the first step

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the loss on the validation data, which Keras computes at the end of an epoch."""
        if self.watch is not None:
            self.watch.log(validation_loss=(logs or {}).get("val_loss"))

    def on_train_end(self, logs: Any = None) -> None:
        self._close()

    def _attach(self, stand_in: KerasOptimizer, names: Sequence[str]) -> Watch:
        model: nn.Module = type(type(self.model).__name__, (nn.Module,), {})()
        for name, parameter in zip(names, stand_in.param_groups[0]["params"], strict=True):
            model.register_parameter(name.replace(".", "_"), parameter)
        self.watch = attach(model, stand_in, self._run, **self._options)
        return self.watch

    def _close(self) -> None:
        if self._updates is not None:
            self._updates.leave()
            self._updates = None
        if self.watch is not None:
            self.watch.close()
            self.watch = None


class KerasOptimizer(Optimizer):
    """Represents the Keras optimizer: one step is one update of it."""

    def __init__(self, optimizer: Any, parameters: Sequence[Tensor]) -> None:
        self.stands_for = optimizer
        self.update: Callable[[], object] = lambda: None
        super().__init__(list(parameters), _settings(optimizer))

    def step(self, closure: Any = None) -> Any:
        self.update()


class KerasClip(InLoop):
    """Puts the gradients that Keras has clipped in the place of those before, and says how they were clipped."""

    def __init__(self, optimizer: Any, clipped: Sequence[Tensor | None]) -> None:
        self._optimizer, self._clipped = optimizer, clipped

    def __repr__(self) -> str:
        return f"Keras {_clip_setting(self._optimizer)}"

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        setting = _clip_setting(self._optimizer)
        limit = float(getattr(self._optimizer, setting))
        cut: tuple[Tensor, ...] = ()
        if setting == "clipvalue":
            gradients = [p.grad for p in parameters if p is not None and p.grad is not None]
            cut = tuple(count_above(gradients, limit))
        for parameter, gradient in zip(parameters, self._clipped, strict=True):
            if parameter is not None:
                parameter.grad = gradient
        if setting == "clipvalue":
            return Clipping(clip_value=limit, cut_entries=cut)
        if setting == "global_clipnorm":
            return Clipping(max_norm=limit, coefficient=(limit / total_norm(measured)).clamp(max=1.0))
        norms = [norms for _, norms in measured.norms()]
        return Clipping(coefficient=shrunk(norms, [norm.clamp(max=limit) for norm in norms]))


class _Updates:
    """Stands between a Keras optimizer and its updates until `leave`."""

    def __init__(self, optimizer: Any, attached: Callable[[KerasOptimizer, Sequence[str]], Watch]) -> None:
        self._outer, self.optimizer = optimizer, getattr(optimizer, "inner_optimizer", optimizer)
        self._attached = attached
        self._stand_in: KerasOptimizer | None = None
        self._watch: Watch | None = None
        self._before: Sequence[Tensor | None] = ()
        self._losses: list[Tensor] = []
        originals: list[Any] = [getattr(one, name, None) for one, name in self._replaced()]
        if None in originals:
            raise UnsupportedVersion(f"keras {keras.__version__} makes updates in a way that gradwatch does not know.")
        self._clip, self._update, self._scale_loss = originals
        for (one, name), ours in zip(
            self._replaced(), (self._clipping, self._updating, self._scaling_loss), strict=True
        ):
            object.__setattr__(one, name, ours)

    def _replaced(self) -> list[tuple[Any, str]]:
        return [(self.optimizer, CLIPS), (self.optimizer, UPDATES), (self._outer, SCALES)]

    def leave(self) -> None:
        for one, name in self._replaced():
            one.__dict__.pop(name, None)

    def begin(self) -> KerasOptimizer:
        """Attach, if that has not happened yet."""
        if self._stand_in is None:
            variables = self.optimizer._trainable_variables
            self._stand_in = KerasOptimizer(self.optimizer, [variable.value for variable in variables])
            self._watch = self._attached(self._stand_in, [variable.path for variable in variables])
        return self._stand_in

    def _scaling_loss(self, loss: Any) -> Any:
        scaled = self._scale_loss(loss)
        if scaled is not loss and isinstance(loss, Tensor):
            self._losses.append(loss.detach())
        return scaled

    def _clipping(self, grads: Sequence[Tensor | None]) -> Any:
        self._before = list(grads)
        return self._clip(grads)

    def _updating(self, grads: Sequence[Tensor | None], variables: Sequence[Any], learning_rate: Any) -> Any:
        update = functools.partial(self._update, grads, variables, learning_rate)
        before, self._before = self._before, ()
        losses, self._losses = self._losses, []
        if torch.compiler.is_compiling() or len(before) != len(variables):
            return update()
        parameters = [variable.value for variable in variables]
        kept = [parameter.grad for parameter in parameters]
        try:
            stand_in = self._prepared(parameters, before, grads, learning_rate)
            if stand_in is None:
                return update()
            stand_in.update = update
            with torch.enable_grad():  # Keras turns it off around the whole update
                stand_in.step()
            if losses and self._watch is not None:  # PyTorch's backward saw the scaled one
                self._watch.log(loss=torch.stack(losses).mean())
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient
        return None

    def _prepared(
        self,
        parameters: Sequence[Tensor],
        before: Sequence[Tensor | None],
        after: Sequence[Tensor | None],
        learning_rate: Any,
    ) -> KerasOptimizer | None:
        """The stand-in, whose parameters hold the gradients of this update; None after a fault of ours."""
        try:
            stand_in = self.begin()
            stand_in.param_groups[0]["lr"] = getattr(learning_rate, "value", learning_rate)
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
            if _clip_setting(self.optimizer):
                KerasClip(self.optimizer, after)(parameters)
        except Exception as error:
            logger.warning("gradwatch does not record this update of Keras: %s: %s", type(error).__name__, error)
            return None
        return stand_in


def _clip_setting(optimizer: Any) -> str:
    """Which of the optimizer's settings clips, in the order in which Keras looks at them; "" if none does."""
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if getattr(optimizer, name, None):
            return name
    return ""


def _settings(optimizer: Any) -> dict[str, Any]:
    """The settings of a Keras optimizer by PyTorch's names, where it has such."""
    config = {name: value for name, value in optimizer.get_config().items() if name not in ("name", "learning_rate")}
    known = {"lr": 0.0, "eps": config.pop("epsilon", None)}
    if "beta_1" in config and "beta_2" in config:
        known["betas"] = (config.pop("beta_1"), config.pop("beta_2"))
    return {name: value for name, value in (known | config).items() if value is not None}
