"""Whether a measured step is bad: from its norm without the loss scale, over all processes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.capture import Why
from gradwatch.measure import Measurement
from gradwatch.record import total
from gradwatch.recording.capture.ledger import Ledger
from gradwatch.recording.capture.team import CaptureTeam, copies_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was known of a bad step before its update.

    Attributes:
        why: the reason to keep it.
        total_norm: L2 norm over all gradients, unscaled.
        limit: the norm above which it is bad; None if too few are known.
        loss_scale: of a GradScaler; None without one.
        is_unscaled: whether the gradients were divided by the scale.
    """

    why: Why
    total_norm: float
    limit: float | None
    loss_scale: float | None = None
    is_unscaled: bool = True


class StepJudge:
    """Applies the rule of each optimizer to its steps, and knows the loss scale of each.

    Args:
        on: the reasons to keep a step.
        team: the processes that train together; None if there is one.
    """

    def __init__(self, on: Collection[Why], team: CaptureTeam | None = None) -> None:
        self._on, self._team = on, team
        self._losses: list[Tensor] = []
        self._scales: dict[int, tuple[Tensor, bool]] = {}  # by ledger: the scale, and whether gradients are unscaled

    def note_roots(self, tensors: Sequence[Tensor]) -> None:
        """A backward on these tensors begins; those of one entry are losses."""
        self._losses = [tensor.detach() for tensor in tensors if tensor.numel() == 1]

    def note_unscaled(self, ledger: Ledger, scale: Tensor) -> None:
        """The gradients were divided by this scale."""
        self._scales[id(ledger)] = scale.detach().clone(), True

    def note_scaled_step(self, ledger: Ledger, optimizer: Optimizer, scale: Tensor) -> None:
        """A GradScaler is about to step. An optimizer that unscales gradients itself takes scaled ones."""
        if id(ledger) not in self._scales:
            unscales = getattr(optimizer, "_step_supports_amp_scaling", False)
            self._scales[id(ledger)] = scale.detach().clone(), not unscales

    def forget_scale(self, ledger: Ledger) -> None:
        """The step has been made or skipped."""
        self._scales.pop(id(ledger), None)

    def judge(self, ledger: Ledger, measured: Measurement) -> Judged | None:
        """Return what is known of a step that is to be kept; None if it is not. Waits for the device of the norms."""
        ledger.judged += 1
        scale, is_unscaled = self._scales.get(id(ledger), (None, True))
        norm = self._norm_over_ranks(ledger, _total_norm(measured))
        if scale is not None and not is_unscaled:
            norm /= float(scale)
        if scale is not None and not math.isfinite(norm) and self._is_scalers(ledger, scale):
            return None
        limit = ledger.rule.limit
        why = ledger.rule.judge(norm)
        if why is None or why not in self._on:
            return None
        return Judged(
            why=why,
            total_norm=norm,
            limit=limit,
            loss_scale=None if scale is None else float(scale),
            is_unscaled=is_unscaled,
        )

    def _norm_over_ranks(self, ledger: Ledger, norm: float) -> float:
        """The norm of the whole gradient, of which this process may hold a part."""
        if self._team is None or ledger.parallel != "fully_shard":
            return norm
        return self._team.total(ledger.moment, norm, copies_of(ledger.tracker.parameters.parameters))

    def _is_scalers(self, ledger: Ledger, scale: Tensor) -> bool:
        """Whether a gradient that is not finite is the affair of a GradScaler, which skips it and lowers its scale."""
        if float(scale) <= 1:
            return False
        is_finite = all(bool(torch.isfinite(loss).all()) for loss in self._losses)
        if self._team is None or ledger.parallel is None:
            return is_finite
        return all(self._team.exchange("finite", ledger.moment, float(is_finite)))


def _total_norm(measured: Measurement) -> float:
    """The L2 norm of all gradients. Waits for the device, if they are on one."""
    norms = [part.cpu().double().numpy() for _, part in measured.norms()]
    return total(np.concatenate(norms))
