"""Clipping that did not act on the gradients that the optimizer used."""

from __future__ import annotations

from gradwatch.record import ClipFault, Event, StepRecord, event_at
from gradwatch.text import number

QUIET_STEPS = 300
"""A fault is reported again after this many steps without it."""

_TOLD: dict[ClipFault, str] = {
    "before-backward": "clipping was called before backward, which then added to the gradients",
    "after-step": "clipping was called after the step, when the optimizer had already used the gradients",
    "before-unscale": "clipping was called on gradients still multiplied by the loss scale {scale}: the"
    " effective threshold was {threshold}",
    "other-parameters": "the clipped parameters are not those that this optimizer updates",
    "no-gradients": "the clipped parameters had no gradient, and nothing was clipped",
    "no-parameters": "clipping was given no parameters",
    "micro-batch": "clipping was called several times while the gradients accumulated; total_norm is that of the last"
    " call, after the earlier calls had clipped",
    "part": "clipping was given a part of the parameters; the norm of all of them stays above the threshold",
}


class IneffectiveClipping:
    """A clip call in the wrong place, judged from the order of calls and not from the numbers.

    It is reported at once, and again after `QUIET_STEPS` steps without it. Clipping at every micro-batch, or of a
    part of the parameters, does clip, though maybe something else than intended: information. All other faults are
    warnings, because the run trains without the guard that its author relies on.
    """

    def __init__(self) -> None:
        self._steps_since: dict[ClipFault, int] = {}

    def update(self, record: StepRecord) -> list[Event]:
        self._steps_since = {fault: steps + 1 for fault, steps in self._steps_since.items()}
        fault = record.clip_fault
        if fault is None:
            return []
        is_new = self._steps_since.get(fault, QUIET_STEPS + 1) > QUIET_STEPS
        self._steps_since[fault] = 0
        if not is_new or fault not in _TOLD:
            return []
        threshold = record.max_norm if record.max_norm is not None else record.clip_value
        return [
            event_at(
                record,
                kind="ineffective-clipping",
                severity="info" if fault in ("micro-batch", "part") else "warning",
                message=_TOLD[fault].format(
                    scale=number(record.loss_scale or 1.0, 6), threshold=number(threshold or 0.0)
                ),
                observed=record.total_norm,
                limit=threshold,
            )
        ]
