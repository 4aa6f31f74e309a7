"""Clipping that did not reach what the optimizer consumed."""

from __future__ import annotations

from gradwatch.record import Event, Severity, StepRecord

QUIET = 300

_CAUSES = {
    "before-backward": "clipping was called before backward, which then added to the gradients;"
    " call it between backward and step",
    "after-step": "clipping was called after the step, which had consumed the gradients by then;"
    " call it between backward and step",
    "before-unscale": "clipping was called on gradients still multiplied by the loss scale {scale:g}, so that the"
    " threshold in force was {threshold:.3g}; call scaler.unscale_(optimizer) before it",
    "other-parameters": "the parameters that were clipped are not those that this optimizer updates;"
    " clip the parameters of the model that is trained",
    "no-gradients": "the parameters that were clipped had no gradient, so nothing was;"
    " clip between backward and step those that are trained (optimizers that step within backward leave none to clip)",
    "no-parameters": "clipping was given no parameters, an exhausted generator say;"
    " give it model.parameters() each time",
    "micro-batch": "clipping was called several times while the gradients accumulated; total_norm is that of the last"
    " call, which the earlier ones had cut. Clip once, before the step",
}


class IneffectiveClipping:
    """A fault is a fact of the loop, not of the numbers: said at once, and again after `QUIET` steps without.

    Clipping at every micro-batch does clip, only not what one might think: information. All other
    faults are warnings, for the run trains without the guard that its author believes in.
    """

    def __init__(self) -> None:
        self._since: dict[str, int] = {}

    def update(self, record: StepRecord) -> list[Event]:
        self._since = {fault: steps + 1 for fault, steps in self._since.items()}
        fault = record.clip_fault
        if fault is None:
            return []
        is_new = self._since.get(fault, QUIET + 1) > QUIET
        self._since[fault] = 0
        if not is_new or fault not in _CAUSES:
            return []
        severity: Severity = "info" if fault == "micro-batch" else "warning"
        threshold = record.max_norm if record.max_norm is not None else record.clip_value
        return [
            Event(
                step=record.step,
                kind="ineffective-clipping",
                severity=severity,
                observed=record.total_norm,
                limit=threshold,
                message=_CAUSES[fault].format(scale=record.loss_scale or 1.0, threshold=threshold or 0.0),
                optimizer=record.optimizer,
                attempt=record.attempt,
            )
        ]
