"""A measured step whose update has not happened yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.clip.calls import Clipping
from gradwatch.measure import Measurement, Ready, begin_copy, is_on_host, mark_copies
from gradwatch.recording.gradients import Made, versions_of
from gradwatch.recording.losses import BackwardLoss, Number, number_or_nan
from gradwatch.recording.micro_batches import Accumulation
from gradwatch.recording.weight_sampler import WeightChange


@dataclass(slots=True, kw_only=True)
class PendingStep:
    """A step from the moment its gradients are measured until its record is made.

    Attributes:
        measured: the statistics of the gradients, scaled by ``scale`` where that is given.
        made: the first gradient, as it was when it was measured.
        versions: of the gradients when the loop went on; None where the loop may have changed them since.
        clippings: what clipped the gradients, in order.
        was_clipped: clipped, and changed by the loop since, so that it was measured again.
        clip_fault: one of `gradwatch.record.CLIP_FAULTS`.
        is_clipped_scaled: clipped by calls that came before the gradients were unscaled.
        is_clipped_by_policy: whether the policy of `attach` has acted.
        is_dropped: the gradients were let go of before an update took them.
        losses: logged by the user.
        backward_losses: on which backward was called.
        scale: the gradients were measured times this.
        loss_scale: the GradScaler's at the step.
        found_inf: of a fused optimizer, which skips the update itself if this is above 0.
        part_sizes: entries of the part that this process has of each parameter, where other processes train too.
        accumulation: how the gradient was accumulated, where that was read.
        before_reduction: what this process had before the reduction over ranks.
        weights: what the step did to them, where they were sampled.
        updates: as the optimizer computed them, where they were read.
        magnitudes: how many entries of the gradients have which magnitude, where they were counted.
        sentinels: the updates of a few parameters, where those of all were not read.
        sentinel_sizes: the entries that this process holds of each of them, by position.
        whole: of sharded gradients, where their norms over all processes were needed at the step.
        ready: when the numbers that `to_host` copies are there.
    """

    step: int
    measured: Measurement
    made: Made | None = None
    backwards: int = 0  # before it was measured
    versions: list[int] | None = None
    clippings: list[Clipping] = field(default_factory=list)
    was_clipped: bool = False
    clip_fault: str | None = None
    is_clipped_scaled: bool = False
    is_clipped_by_policy: bool = False
    is_dropped: bool = False
    skipped: bool = False
    wall_time: float = 0.0
    learning_rates: tuple[Number, ...] = ()
    losses: list[Number] = field(default_factory=list)
    backward_losses: list[BackwardLoss] = field(default_factory=list)
    scale: Tensor | None = None
    loss_scale: Tensor | None = None
    found_inf: Tensor | None = None
    weights: WeightChange | None = None
    updates: Measurement | None = None
    magnitudes: Measurement | None = None
    sentinels: Measurement | None = None
    sentinel_sizes: dict[int, int] = field(default_factory=dict)
    part_sizes: tuple[int, ...] = ()
    accumulation: Accumulation | None = None
    before_reduction: tuple[Measurement, ...] = ()
    whole: Measurement | None = None
    ready: tuple[Ready, ...] = ()

    def is_of(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether these are the gradients that were measured, unchanged but for what clipped them."""
        if self.versions is None:
            return False
        now = versions_of(gradients)
        known = len(self.versions)
        return now[:known] == self.versions and all(version == -1 for version in now[known:])

    def note_versions(self, gradients: Sequence[Tensor | None]) -> None:
        """The loop goes on; what it changes in the gradients from here on was not measured."""
        self.versions = versions_of(gradients)

    def has_lost(self, gradients: Sequence[Tensor | None], backwards: int) -> bool:
        """Whether there was a gradient after this many backward passes, and now there is none."""
        was_there = bool(self.measured.parts) and self.backwards == backwards
        return was_there and all(gradient is None for gradient in gradients)

    def drop(self, logged: list[Number], of_backward: list[BackwardLoss], loss_scale: Tensor | None) -> None:
        """The gradients were let go of; these losses were logged until then, and those had made them."""
        self.is_dropped, self.loss_scale = True, loss_scale
        self.losses, self.backward_losses = logged, of_backward

    def note_fault(self, fault: str) -> None:
        """Clipping did not do what it was meant to do."""
        self.clip_fault = fault

    def add_clipping(self, *clippings: Clipping) -> None:
        """The gradients were clipped after they were measured."""
        self.clippings += clippings

    def take_as_skipped(self, learning_rates: tuple[Number, ...]) -> None:
        """The update begins, and there is no gradient for it any more."""
        self.skipped, self.learning_rates = True, learning_rates

    def take_scaling(self, found_inf: Tensor | None, scale: Tensor | None) -> None:
        """A fused optimizer divides by the scale itself, within the step, and skips by ``found_inf``."""
        if found_inf is not None:
            self.found_inf = found_inf.detach().clone()
        if scale is not None:
            self.unscale(scale)

    def updated(
        self,
        learning_rates: tuple[Number, ...],
        weights: WeightChange | None,
        loss_scale: Tensor | None,
        before_reduction: tuple[Measurement, ...],
    ) -> None:
        """The update has happened."""
        self.learning_rates = learning_rates
        self.weights, self.loss_scale, self.before_reduction = weights, loss_scale, before_reduction

    def unscale(self, scale: Tensor) -> None:
        """Take the gradients that were measured and clipped so far for multiplied by ``scale``."""
        self.scale = scale.detach().clone()
        self.magnitudes = None
        self.is_clipped_scaled = bool(self.clippings)
        self.clippings = [
            replace(
                clipping,
                max_norm=None if clipping.max_norm is None else clipping.max_norm / self.scale,
                clip_value=None if clipping.clip_value is None else clipping.clip_value / self.scale,
            )
            for clipping in self.clippings
        ]

    @property
    def is_as_made(self) -> bool:
        """Whether nothing that is known has changed the gradients since the backward pass."""
        return not (self.clippings or self.was_clipped or self.is_clipped_by_policy or self.skipped)

    @property
    def is_here(self) -> bool:
        """Whether every number lies on the host already."""
        return (
            not self.ready
            and all(map(_is_all_here, self._measurements()))
            and not any(map(_is_on_device, self._numbers()))
        )

    @property
    def has_arrived(self) -> bool:
        """Whether nothing has to be waited for, after `to_host`. Asks the devices, and waits for none."""
        parts = (part.ready for measured in self._measurements() for part in measured.parts)
        return all(ready is None or ready.query() for ready in (*self.ready, *parts))

    def to_host(self) -> None:
        """Begin to copy single numbers from a device, so that nothing waits for them there."""
        devices: set[torch.device] = set()

        def pinned(number: Any) -> Any:
            """A copy in pinned memory that is begun now; what lies on the host as it is."""
            if not _is_on_device(number):
                return number
            devices.add(number.device)
            return begin_copy(number)

        self.loss_scale, self.scale, self.found_inf = map(pinned, (self.loss_scale, self.scale, self.found_inf))
        self.losses = list(map(pinned, self.losses))
        self.backward_losses = [loss._replace(value=pinned(loss.value)) for loss in self.backward_losses]
        self.learning_rates = tuple(map(pinned, self.learning_rates))
        self.clippings = [
            Clipping(
                max_norm=pinned(clipping.max_norm),
                norm_type=clipping.norm_type,
                clip_value=pinned(clipping.clip_value),
                coefficient=pinned(clipping.coefficient),
                cut_entries=tuple(map(pinned, clipping.cut_entries)),
            )
            for clipping in self.clippings
        ]
        if devices:
            self.ready = mark_copies(devices)

    def _measurements(self) -> list[Measurement]:
        weights = () if self.weights is None else (self.weights.weights, self.weights.changes, self.weights.alignment)
        first = None if self.accumulation is None else self.accumulation.first
        found = (
            self.measured,
            self.updates,
            self.magnitudes,
            self.sentinels,
            first,
            *weights,
            *self.before_reduction,
        )
        return [one for one in found if one is not None]

    def _numbers(self) -> list[Any]:
        """Every single number that may lie on a device."""
        numbers = [self.loss_scale, self.scale, self.found_inf, *self.losses]
        numbers += [loss.value for loss in self.backward_losses]
        numbers += self.learning_rates
        for clipping in self.clippings:
            numbers += (clipping.coefficient, clipping.max_norm, clipping.clip_value, *clipping.cut_entries)
        return numbers


def _is_all_here(measured: Measurement) -> bool:
    return measured.is_here


def _is_on_device(number: Any) -> bool:
    return isinstance(number, Tensor) and not is_on_host(number)


def learning_rates_of(optimizer: Optimizer, *, together: bool = False) -> tuple[Number, ...]:
    """The rate of each group that has parameters, NaN if it is no number; one that lies on a device is not waited for.

    Views show the first one, so a group without parameters, whose rate moves nothing, must not take that place.
    With ``together`` one rate, where all groups have the same: the same object, or equal numbers on the host. Numbers
    on a device are not compared, for the answer would have to be waited for.
    """
    given = [group["lr"] for group in optimizer.param_groups if "lr" in group and group["params"]]
    if together and len({id(one) for one in given}) == 1:
        del given[1:]
    rates = tuple(number_or_nan(one) for one in given)
    is_comparable = together and all(isinstance(rate, float) for rate in rates)
    return rates[:1] if is_comparable and len(set(rates)) == 1 else rates
