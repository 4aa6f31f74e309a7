"""An optimizer that the loop steps.

A step is measured at the first clip call, or before the update where there was none; it is finished
when the update was made, or is known not to have been. It is held back until the next one begins,
so that its loss can still be logged.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.clip import Policy
from gradwatch.clip.policy import clip_parts
from gradwatch.distributed import ParameterPart
from gradwatch.measure import (
    ZEROS_EVERY,
    Measurement,
    is_sharded,
    local,
    make_sums,
    measure,
    norms,
    part_of,
    parts_in_fsdp1,
    reads_once,
    whole,
)
from gradwatch.record import ParameterInfo
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.optimizer_probe import probed_settings
from gradwatch.recording.pending import (
    PendingStep,
    first_of,
    learning_rates_of,
    norm_clipping,
    value_clipping,
    version_of,
    versions_of,
)
from gradwatch.recording.sink import Beginning

# What wrappers put into the names of parameters: DDP and DataParallel, compile, checkpointing, FSDP1, Fabric.
_WRAPPERS = ("DistributedDataParallel", "DataParallel")
_INSERTED = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_forward_module.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """What is recorded of every optimizer, and what is done with it."""

    stats: tuple[str, ...]
    every: int
    weights_every: int
    clip: Policy | None
    clip_only_unclipped: bool  # leave steps alone that the loop has clipped by norm
    skip_nonfinite: bool
    put: Callable[[StepTracker, PendingStep], None]  # takes a finished step
    say: Callable[[str], None]  # tells the user, once
    losses_of_backward: Callable[[StepTracker], list[float | Tensor]]  # since the last step of any
    before_reduction: Callable[[], tuple[Measurement, ...]] = tuple  # of the last gradients, over ranks
    measures: bool = True  # False: nobody asks for what this process has
    keeps_nothing_back: bool = False  # no loss will be logged here


def _mark_of(parameter: Tensor | None) -> tuple[int, int] | None:
    """What changes where a gradient is made or added to."""
    gradient = None if parameter is None else parameter.grad
    if gradient is None:
        return None
    return id(gradient), gradient._version if type(gradient) is Tensor else version_of(gradient)


def named_parameters(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The model's parameters by its own names, without what wrappers around it or its parts add.

    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> [name for name, _ in named_parameters(nn.DataParallel(model))]
    ['0.weight', '0.bias']
    >>> [name for name, _ in named_parameters(torch.compile(model))]
    ['0.weight', '0.bias']
    """
    wrappers = [path for path, module in model.named_modules() if type(module).__name__ in _WRAPPERS]
    # The innermost first, so that the paths of the outer ones still hold.
    inner_first = sorted(wrappers, key=len, reverse=True)
    found: list[tuple[str, Tensor]] = []
    for full_name, parameter in model.named_parameters():
        name = full_name
        for path in inner_first:
            prefix = f"{path}." if path else ""
            if name.startswith(f"{prefix}module."):
                name = prefix + name[len(prefix) + len("module.") :]
        for inserted in _INSERTED:
            name = name.replace(inserted, "")
        found.append((name, parameter))
    return found


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """The defaults of an optimizer that can be written down, and what a trial of its class has shown."""
    plain = (bool, int, float, str, tuple, list, type(None))
    defaults = {name: value for name, value in optimizer.defaults.items() if isinstance(value, plain)}
    return defaults | probed_settings(optimizer)


def sharding_of(trained: Iterable[tuple[nn.Module, Optimizer]]) -> tuple[bool, bool]:
    """Whether this process holds a part of any parameter, and whether FSDP1 made the parts."""
    sharded = flat = False
    for model, optimizer in trained:
        parts = parts_in_fsdp1(model)
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            in_flat = bool(parts.get(id(parameter), ((), ""))[1]) and not is_sharded(parameter)
            sharded |= in_flat or is_sharded(parameter)
            flat |= in_flat
    return sharded, flat


class StepTracker:
    """One optimizer: its parameters in the order of the blobs, and the step that it is at."""

    def __init__(
        self,
        name: str,
        optimizer: Optimizer,
        model: nn.Module,
        habits: RecordingOptions,
        beginning: Beginning,
    ) -> None:
        stored = beginning.stored
        self.name, self.optimizer, self.model = name, optimizer, model
        self.step = self.first_step = beginning.step
        self.infos: tuple[ParameterInfo, ...] = tuple(stored)
        self.parameters: list[Tensor | None] = [None] * len(stored)
        self.parts: list[ParameterPart | None] = [None] * len(stored)  # what this process has of them
        self.is_sharded = False
        self.is_flat = False  # by FSDP1
        self.present: list[bool] = []  # which of them this process has
        self._reads_once = False
        self.ids: set[int] = set()
        self._habits = habits
        self._draft: PendingStep | None = None
        self._finished: PendingStep | None = None
        self._losses: list[float | Tensor] = []
        self._losses_of_backward: list[float | Tensor] = []
        self._logs_before_step: bool | None = None
        self._is_told_losses = False
        self._loss_scale: Tensor | None = None
        self._step_before_scaler = 0
        self._was_nonfinite = False
        self._still_measured = False
        self._sizes: tuple[int, ...] = ()
        self.backwards = 0  # how many reached these parameters
        self._before_backward: list[tuple[int, int] | None] = []
        self._backwards_before_step = 0
        self._before_closure: PendingStep | None = None
        self._consumed: tuple[int, weakref.ref[Tensor], int] | None = None
        self._clip_fault: str | None = None  # of a call that did nothing, until the step tells whether it matters
        self._clipped_in_vain: list[Tensor] = []  # parameters that had no gradient when they were clipped
        self._ignores_clip = False
        self._before_reduction: tuple[Measurement, ...] = ()
        self.refresh()

    @property
    def optimizer_class(self) -> str:
        return type(self.optimizer).__name__

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.optimizer)

    def change(self, **changes: Any) -> None:
        """Some habits, as they have turned out to be."""
        self._habits = replace(self._habits, **changes)

    # ---------------------------------------------------------------------------- its parameters

    def refresh(self) -> int | None:
        """Take in parameters that are new here since the last call; return the position of the first."""
        sizes = tuple(len(group["params"]) for group in self.optimizer.param_groups)
        if sizes == self._sizes:
            return None
        self._sizes = sizes
        changed = len(self.infos)
        positions = {info.name: position for position, info in enumerate(self.infos)}
        flat = parts_in_fsdp1(self.model)
        for name, parameter in self._named_parameters():
            if id(parameter) in self.ids:
                continue
            self.ids.add(id(parameter))
            part = self._part_of(name, parameter, flat)
            if name in positions:
                self.parameters[positions[name]] = parameter
                self.parts[positions[name]] = part
                changed = min(changed, positions[name])
                continue
            self.infos += (part.info,)
            self.parameters.append(parameter)
            self.parts.append(part)
        self.present = [parameter is not None for parameter in self.parameters]
        self._reads_once = reads_once(self.parameters)
        return changed if changed < len(self.infos) else None

    def _part_of(self, name: str, parameter: Tensor, flat: Mapping[int, tuple[tuple[int, ...], str]]) -> ParameterPart:
        shape, part = flat.get(id(parameter), (tuple(parameter.shape), part_of(parameter)))
        self.is_sharded |= bool(part) or is_sharded(parameter)
        self.is_flat |= bool(part) and not is_sharded(parameter)
        dtype = str(parameter.dtype).removeprefix("torch.")
        return ParameterPart(info=ParameterInfo(name=name, shape=shape, dtype=dtype), part=part)

    def _named_parameters(self) -> list[tuple[str, Tensor]]:
        """The optimizer's parameters in the model's order, then those that the model does not have."""
        own: dict[int, tuple[str, Tensor]] = {}
        for g, group in enumerate(self.optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                own[id(parameter)] = (f"group{g}.{i}", parameter)
        in_model = [
            (name, parameter)
            for name, parameter in named_parameters(self.model)
            if own.pop(id(parameter), None) is not None
        ]
        return in_model + list(own.values())

    def stats(self) -> tuple[str, ...]:
        """Which statistics this step has: zeros only now and then, where they would need a read of their own."""
        wanted = self._habits.stats
        if self._reads_once or self.step // self._habits.every % ZEROS_EVERY == 0:
            return wanted
        return tuple(name for name in wanted if name != "zeros")

    def gradients(self) -> list[Tensor | None]:
        """Of the parameters; where we clip by them, and all ranks come here alike, as sums that are made."""
        if self.is_sharded and (self._habits.clip is not None or self._habits.skip_nonfinite):
            make_sums(self.parameters)
        return [None if parameter is None else parameter.grad for parameter in self.parameters]

    # ------------------------------------------------------------------------- what the loop does

    def before_backward(self) -> None:
        self._before_backward = [_mark_of(parameter) for parameter in self.parameters]

    def is_reached(self) -> bool:
        """Whether the backward that has just ended added to a gradient of this optimizer; counts it if so."""
        reached = any(
            _mark_of(parameter) != before
            for parameter, before in zip(self.parameters, self._before_backward, strict=False)
        )
        self.backwards += reached
        return reached

    def before_step(self, has_closure: bool) -> None:
        """Measure, unless a clip call has; clip, if that is ours; look at the weights, if it is time."""
        self._losses_of_backward = self._habits.losses_of_backward(self)
        self._before_reduction = self._habits.before_reduction()
        self._backwards_before_step = self.backwards
        if not self._is_due():
            self._draft = None
            return
        if has_closure:
            self._before_closure, self._draft = self._draft, None
        else:
            gradients = self.gradients()
            draft = self._dropped_draft(gradients) or self._settle(gradients)
            self._unscale_fused(draft)
            self._clip_by_policy(gradients)
            self._judge_clipping(draft)
            self._skip_if_nonfinite(draft)
        self._sample_weights_before(has_closure)

    def after_step(self) -> None:
        """Finish the step; a closure called backward within it, the first time for the loss that torch returns."""
        self._losses_of_backward += self._habits.losses_of_backward(self)[:1]
        if self._is_due():
            draft = self._settle_after_closure()
            self._judge_clipping(draft)
            if not draft.clipped_by_policy:
                self._say_not_clipped("a step with a closure makes its gradients within")
            if draft.found_inf is not None and getattr(self.optimizer, "found_inf", None) is draft.found_inf:
                del self.optimizer.found_inf  # type: ignore[attr-defined]
            draft.wall_time = time.time()
            draft.learning_rates = draft.learning_rates or learning_rates_of(self.optimizer)
            self._sample_weights_after(draft)
            draft.loss_scale = self._loss_scale
            self._finish(draft)
        self.step += 1
        self._remember_consumed()

    def gradients_ready(self) -> None:
        """They are as they will be consumed, and a policy can clip them: within a closure nobody else knows."""
        if self._is_due():
            gradients = self.gradients()
            draft = self._settle(gradients)
            self._clip_by_policy(gradients)
            self._judge_clipping(draft)
            self._skip_if_nonfinite(draft)
            self._note_versions()

    def before_clip(self, call: ClipCall) -> None:
        if not self._is_due():
            return
        self._ignores_clip = self._is_in_vain(call)
        if self._ignores_clip:
            return
        gradients = self.gradients()
        draft = self._settle(gradients, at_clip=True)
        if not call.spreads_nonfinite and not draft.clippings and self._is_all(call, gradients):
            call.offered.append(draft.measured)
        if call.clip_value is not None:
            draft.clippings.append(value_clipping(self.parameters, draft, call))

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        if self._ignores_clip:
            if any(parameter.grad is not None for parameter in call.parameters):
                self._remember_consumed()  # the call changed gradients that the last step had consumed
            return
        self._add_clipping(self._draft, call, total_norm)
        if not self._is_dropped_by(call):
            self._note_versions()

    def _is_dropped_by(self, call: ClipCall) -> bool:
        """Whether a policy left the update out, which then is seen at the step by its absent gradients."""
        return any(bool(clipping.skip) for clipping in call.made)

    def _is_all(self, call: ClipCall, gradients: Sequence[Tensor | None]) -> bool:
        """Whether a call clips just the gradients of this optimizer."""
        theirs = {id(parameter) for parameter in call.parameters if parameter.grad is not None}
        return theirs <= self.ids and len(theirs) == sum(gradient is not None for gradient in gradients)

    def clipped_elsewhere(self, fault: str) -> None:
        """A clip call of the loop had nothing to do with these parameters."""
        self._clip_fault = fault

    def _is_in_vain(self, call: ClipCall) -> bool:
        if self._is_consumed():
            self._note_clip_after_step()
            return True
        if all(parameter.grad is None for parameter in call.parameters):
            self._clip_fault, self._clipped_in_vain = "no-gradients", call.parameters
            return True
        return False

    def _note_clip_after_step(self) -> None:
        finished = self._finished
        if finished is None:
            self._clip_fault = "after-step"
        elif not finished.clippings:
            finished.clip_fault = "after-step"

    @staticmethod
    def _add_clipping(draft: PendingStep | None, call: ClipCall, total_norm: Tensor | None) -> None:
        if draft is not None and call.made:
            draft.clippings += call.made
        elif draft is not None and total_norm is not None and call.max_norm is not None:
            draft.clippings.append(norm_clipping(call, total_norm))

    def _judge_clipping(self, draft: PendingStep) -> None:
        """Whether a call that could do nothing was the only one, and why it could not."""
        fault, parameters = self._clip_fault, self._clipped_in_vain
        self._clip_fault, self._clipped_in_vain = None, []
        if fault is None or draft.clippings or draft.clip_fault:
            return
        came_later = fault == "no-gradients" and any(p.grad is not None for p in parameters)
        draft.clip_fault = "before-backward" if came_later else fault

    def _remember_consumed(self) -> None:
        gradient = self._first_gradient()
        self._consumed = None if gradient is None else (self.backwards, weakref.ref(gradient), version_of(gradient))

    def _first_gradient(self) -> Tensor | None:
        for parameter in self.parameters:
            if parameter is not None and parameter.grad is not None:
                return parameter.grad
        return None

    def _is_consumed(self) -> bool:
        """Whether the gradients are still those of the last step: nothing was added since."""
        if self._consumed is None:
            return False
        backwards, first, version = self._consumed
        gradient = self._first_gradient()
        if gradient is None or first() is not gradient:
            return False
        return backwards == self.backwards and version == version_of(gradient)

    def before_unscale(self) -> None:
        draft = self._draft
        self._still_measured = draft is not None and draft.versions == versions_of(self.gradients())

    def after_unscale(self, scale: Tensor) -> None:
        """What was measured and clipped before, was of scaled gradients; it need not be measured again."""
        if self._draft is not None and self._still_measured:
            gradients = self.gradients()
            self._draft.unscale(scale)
            self._draft.versions, self._draft.witness = versions_of(gradients), first_of(gradients)

    def before_scaled_step(self, scale: Tensor) -> None:
        self._loss_scale, self._step_before_scaler = scale.detach().clone(), self.step

    def after_scaled_step(self) -> None:
        """A scaler that backs off does not call `optimizer.step`: nobody else hears of this attempt."""
        if self.step == self._step_before_scaler:
            self._losses_of_backward = self._habits.losses_of_backward(self)
            if self._is_due():
                draft = self._settle(self.gradients())
                draft.loss_scale = self._loss_scale
                self._judge_clipping(draft)
            self.drop()
        self._loss_scale = None

    def forget_losses_of_backward(self) -> None:
        """The user logs a loss: from this step on only that counts, also at steps without."""
        self._is_told_losses = True
        if self._finished is not None:
            self._finished.backward_losses = []

    def log(self, loss: float | Tensor) -> None:
        """Add a loss to the step made last, or to the next where the first came before its step."""
        if self._logs_before_step is None:
            self._logs_before_step = self._finished is None
        finished = self._finished
        in_the_making = self._draft is not None and (finished is None or bool(finished.losses))
        if self._logs_before_step or in_the_making:
            self._losses.append(loss)
        elif finished is not None:
            finished.losses.append(loss)

    def release(self) -> None:
        """Hand on the step that is held back."""
        draft, self._finished = self._finished, None
        if draft is not None:
            draft.to_host()
            self._habits.put(self, draft)

    def drop(self) -> None:
        """The step in the making, if there is one, was an attempt whose update did not happen."""
        draft = self._draft
        if draft is not None and draft.measured.length:
            draft.skipped, draft.wall_time = True, time.time()
            self._finish(draft)
            self.step += 1
        elif not self._is_due():
            self.step += 1
        self._draft = None
        self._remember_consumed()

    # ---------------------------------------------------------------------------------- the step

    def _is_due(self) -> bool:
        return self._habits.measures and self.step % self._habits.every == 0

    def _settle(self, gradients: list[Tensor | None], at_clip: bool = False) -> PendingStep:
        """The draft of the gradients as they are now; measured anew where they changed since it was."""
        self._take_up_again()
        if self._draft is None or self._draft.versions != versions_of(gradients):
            self._keep_if_abandoned(gradients)
            before = self._draft
            measured = measure(gradients, self.stats())
            self._draft = PendingStep(self.step, measured, witness=first_of(gradients), backwards=self.backwards)
            self._draft.take_weights_of(before)
            if before is not None:
                self._draft.clip_fault = self._fault_of_change(before, at_clip)
        self._draft.learning_rates = learning_rates_of(self.optimizer)
        return self._draft

    def _note_versions(self) -> None:
        """Before the loop goes on: a draft whose gradients it changes from here on does not hold any more."""
        if self._draft is not None:
            self._draft.versions = versions_of(self.gradients())

    def _dropped_draft(self, gradients: Sequence[Tensor | None]) -> PendingStep | None:
        """The draft of gradients that were let go of before a step, which then does nothing."""
        draft = self._draft
        if (
            draft is None
            or draft.backwards != self.backwards
            or not draft.measured.parts
            or any(gradient is not None for gradient in gradients)
        ):
            return None
        draft.skipped = True
        draft.learning_rates = learning_rates_of(self.optimizer)
        return draft

    def _fault_of_change(self, before: PendingStep, at_clip: bool) -> str | None:
        """What it means for clipping that the gradients changed after it; what the script changed is its own."""
        if not before.clippings or before.backwards == self.backwards:
            return before.clip_fault
        return "micro-batch" if at_clip else "before-backward"

    def _keep_if_abandoned(self, gradients: Sequence[Tensor | None]) -> None:
        """Gradients that were clipped and then dropped without a step were an attempt, which was skipped.

        A loop that steps only where the norm is finite does this. Gradients that accumulate stay
        the same tensors; dropped ones are new.
        """
        draft = self._draft
        if draft is None or draft.witness is None:
            return
        if all(draft.witness() is not gradient for gradient in gradients):
            self.drop()

    def _settle_after_closure(self) -> PendingStep:
        """The draft of a step with a closure, which leaves its last gradients behind."""
        self._take_up_again()
        waiting, before = self._draft, self._before_closure
        self._before_closure = None
        if waiting is not None and waiting.measured.length:
            return waiting
        draft = PendingStep(self.step, measure(self.gradients(), self.stats()))
        if before is not None and before.clippings:
            draft.clip_fault = "before-backward"
        draft.take_weights_of(waiting)
        return draft

    def _take_up_again(self) -> None:
        """A closure that calls no backward leaves the draft of before it as it was."""
        before, waiting = self._before_closure, self._draft
        if before is None or self.backwards != self._backwards_before_step:
            return
        before.take_weights_of(waiting)
        self._before_closure, self._draft = None, before

    def _finish(self, draft: PendingStep) -> None:
        """Hold a step back until the next one, or its end, so that its loss can still be logged."""
        self.release()
        draft.losses, draft.backward_losses = self._losses, [] if self._is_told_losses else self._losses_of_backward
        self._losses, self._losses_of_backward = [], []
        self._finished, self._draft = draft, None
        draft.before_reduction = self._before_reduction
        if self._logs_before_step or self._habits.keeps_nothing_back:
            self.release()

    def _clip_by_policy(self, gradients: list[Tensor | None]) -> None:
        if self._habits.clip is None or self._draft is None or self._draft.clipped_by_policy:
            return
        if self._habits.clip_only_unclipped and any(c.max_norm is not None for c in self._draft.clippings):
            return
        if isinstance(getattr(self.optimizer, "grad_scale", None), Tensor):
            self._say_not_clipped(
                "a fused optimizer's gradients are still scaled; call scaler.unscale_ before the step"
            )
            return
        if self.is_sharded or any(gradient is not None for gradient in gradients):
            clipping = clip_parts(self._habits.clip, self.parameters, self._whole(self._draft))
            self._draft.clippings.append(clipping)
            self._draft.clipped_by_policy = True
            self._skip(self._draft, clipping.skip)

    def _skip_if_nonfinite(self, draft: PendingStep) -> None:
        """Keep an update away that a NaN or an infinity would reach, if that is wanted."""
        if not self._habits.skip_nonfinite or draft.skipped or not (draft.measured.parts or self.is_sharded):
            return
        measured = self._whole(draft)
        if measured.is_here:
            self._skip(draft, measured.has_nonfinite())
        else:
            self._skip(draft, torch.isfinite(measured.total_on_device()).logical_not())

    def _whole(self, draft: PendingStep) -> Measurement:
        """Norms of whole gradients, where ranks have parts of them; all ranks come here at the same step."""
        if draft.whole is None:
            draft.whole = whole(draft.measured, self.parameters)
        return draft.whole

    def _skip(self, draft: PendingStep, skip: bool | Tensor) -> None:
        """Keep the update away; a device decides by itself, through an optimizer that takes ``found_inf``."""
        if skip is False:
            return
        if isinstance(skip, bool) or skip.device.type == "cpu":
            if skip:
                draft.skipped = True
                for parameter in self.parameters:
                    if parameter is not None:
                        parameter.grad = None
        elif not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            message = "this optimizer would have to wait for the device; make it with fused=True"
            self._habits.say(f"gradwatch did not skip: {message} (skip-not-applied)")
        elif (known := getattr(self.optimizer, "found_inf", None)) is None or known is draft.found_inf:
            found_inf = skip.float() if draft.found_inf is None else torch.maximum(draft.found_inf, skip.float())
            self.optimizer.found_inf = draft.found_inf = found_inf  # type: ignore[attr-defined]

    def _say_not_skipped(self, why: str) -> None:
        if self._habits.skip_nonfinite:
            self._habits.say(f"gradwatch did not skip: {why} (skip-not-applied)")

    def _say_not_clipped(self, why: str) -> None:
        if self._habits.clip is not None:
            self._habits.say(f"gradwatch did not clip: {why} (clip-not-applied)")

    def _unscale_fused(self, draft: PendingStep) -> None:
        """A fused optimizer divides by the scale itself, within the step."""
        found_inf, scale = getattr(self.optimizer, "found_inf", None), getattr(self.optimizer, "grad_scale", None)
        if isinstance(found_inf, Tensor):
            draft.found_inf = found_inf.detach().clone()
        if isinstance(scale, Tensor):
            draft.unscale(scale)

    @torch.no_grad()
    def _sample_weights_before(self, has_closure: bool) -> None:
        if not self._habits.weights_every or not (
            self.step % self._habits.weights_every == 0 or self._first_nonfinite()
        ):
            return
        if has_closure:
            self._draft = PendingStep(self.step, Measurement(self._habits.stats, 0, ()))
        assert self._draft is not None
        present = [local(p.detach()) for p in self.parameters if p is not None]
        self._draft.weight_norms = norms(present)
        self._draft.old_weights = [p.clone() for p in present]

    def _first_nonfinite(self) -> bool:
        """Whether this step is not finite after one that was, as far as is known without waiting for a device.

        The weights then tell whether it came from them.
        """
        measured = None if self._draft is None else self._draft.measured
        bad = measured is not None and measured.is_here and measured.has_nonfinite()
        first, self._was_nonfinite = bad and not self._was_nonfinite, bad
        return first

    @torch.no_grad()
    def _sample_weights_after(self, draft: PendingStep) -> None:
        if draft.old_weights is None or draft.weight_norms is None:
            return
        present = [local(p.detach()) for p in self.parameters if p is not None]
        for old, new in zip(draft.old_weights, present, strict=True):
            old.sub_(new)
        draft.weights = (draft.weight_norms, norms(draft.old_weights))
        draft.old_weights = None
