"""The actions of `attach` on an update before it happens: ``clip=`` and ``skip_nonfinite``.

This is protection, not recording. It goes on after the recording has ended for any reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import Measurement, is_on_host, measure, whole
from gradwatch.recording.notices import Notices
from gradwatch.recording.parameters import ParameterTable, reference_to
from gradwatch.recording.pending import PendingStep

if TYPE_CHECKING:
    from gradwatch.clip import Policy


class UpdateGate:
    """Clips the gradients of one optimizer by a policy, and leaves out updates that are not finite."""

    def __init__(
        self,
        optimizer: Optimizer,
        table: ParameterTable,
        notices: Notices,
        *,
        policy: Policy | None,
        skip_nonfinite: bool,
        only_unclipped: bool,
    ) -> None:
        """With ``only_unclipped`` the policy leaves steps alone that the loop has clipped by norm."""
        self._reference, self._table, self._notices = reference_to(optimizer), table, notices
        self._policy = policy
        self._skips_nonfinite = skip_nonfinite
        self._only_unclipped = only_unclipped

    @property
    def _optimizer(self) -> Optimizer | None:
        return self._reference()

    @property
    def acts(self) -> bool:
        """Whether there is anything to do."""
        return self._policy is not None or self._skips_nonfinite

    def gradients(self) -> list[Tensor | None]:
        """The gradients as they can be acted on."""
        return self._table.gradients_to_act_on() if self.acts else self._table.gradients()

    def clip(self, pending: PendingStep, gradients: Sequence[Tensor | None]) -> None:
        """Clip by the policy, unless it has clipped these gradients already."""
        if self._policy is None or pending.is_clipped_by_policy:
            return
        if self._only_unclipped and any(c.max_norm is not None for c in pending.clippings):
            return
        if isinstance(getattr(self._optimizer, "grad_scale", None), Tensor):
            self._notices.not_clipped(
                "a fused optimizer's gradients are still scaled; call scaler.unscale_ before the step"
            )
            return
        if self._table.is_sharded or any(gradient is not None for gradient in gradients):
            from gradwatch.clip.policy import clip_parts

            clipping = clip_parts(self._policy, self._table.parameters, self._as_they_are(pending, gradients))
            pending.clippings.append(clipping)
            pending.is_clipped_by_policy = True
            self._skip(pending, clipping.skip)

    def skip_nonfinite(self, pending: PendingStep) -> None:
        """Leave out an update that a NaN or an infinity would reach, if that is wanted."""
        there = bool(pending.measured.parts) or self._table.is_sharded
        if not self._skips_nonfinite or pending.skipped or not there:
            return
        measured = self._whole(pending)
        if measured.is_here:
            self._skip(pending, measured.has_nonfinite())
        else:
            self._skip(pending, torch.isfinite(measured.total_on_device()).logical_not())

    def protect(self, step: int) -> None:
        """Do all of it without the rest of a recording."""
        gradients = self.gradients()
        pending = PendingStep(step=step, measured=measure(gradients))
        self.clip(pending, gradients)
        self.skip_nonfinite(pending)

    def release(self, pending: PendingStep) -> None:
        """After the update: take back what told a fused optimizer to skip it."""
        optimizer: Any = self._optimizer
        if pending.found_inf is not None and getattr(optimizer, "found_inf", None) is pending.found_inf:
            del optimizer.found_inf

    def say_not_applied(self, why: str) -> None:
        """The loop gives no moment at which all gradients are there and not consumed yet."""
        self.say_not_clipped(why)
        if self._skips_nonfinite:
            self._notices.not_skipped(why)

    def say_not_clipped(self, why: str) -> None:
        if self._policy is not None:
            self._notices.not_clipped(why)

    def _as_they_are(self, pending: PendingStep, gradients: Sequence[Tensor | None]) -> Measurement:
        """The norms of whole gradients, measured again where the loop has clipped since."""
        if pending.clippings:
            return whole(measure(gradients), self._table.parameters)
        return self._whole(pending)

    def _whole(self, pending: PendingStep) -> Measurement:
        """Norms of whole gradients, where ranks have parts of them; all ranks come here at the same step."""
        if pending.whole is None:
            pending.whole = whole(pending.measured, self._table.parameters)
        return pending.whole

    def _skip(self, pending: PendingStep, skip: bool | Tensor) -> None:
        """Skip the update; on a device, an optimizer that takes ``found_inf`` decides without a wait."""
        if skip is False:
            return
        optimizer: Any = self._optimizer
        if isinstance(skip, bool) or is_on_host(skip):
            if skip:
                pending.skipped = True
                for parameter in self._table.parameters:
                    if parameter is not None:
                        parameter.grad = None
        elif not getattr(optimizer, "_step_supports_amp_scaling", False):
            self._notices.not_skipped("this optimizer would have to wait for the device; make it with fused=True")
        elif (known := getattr(optimizer, "found_inf", None)) is None or known is pending.found_inf:
            found_inf = skip.float() if pending.found_inf is None else torch.maximum(pending.found_inf, skip.float())
            optimizer.found_inf = pending.found_inf = found_inf
