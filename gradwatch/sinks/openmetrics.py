"""OpenMetrics text in a file, for a Prometheus file collector: the latest numbers of a run."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from pathlib import Path

from gradwatch.record import Event, StepRecord
from gradwatch.sinks.tracker import Closing, RunFacts

EVERY = 2.0  # seconds between two writes

_HELP = {
    "step": "number of the last recorded step",
    "last_step_timestamp_seconds": "when the last recorded step was made",
    "total_norm": "L2 norm of all gradients before clipping, at the last step",
    "total_norm_max": "largest total norm since the last write",
    "clip_coef": "factor that clipping multiplied the gradients by, at the last step",
    "max_norm": "threshold of clipping by norm, at the last step",
    "loss": "loss of the last step that has one",
    "learning_rate": "learning rate of the first parameter group",
    "nonfinite": "gradient entries that are NaN or infinite, at the last step",
    "running": "1 while the run is recorded",
}


class OpenMetricsFile:
    """Replaces a file with the numbers of the latest step, at most every `EVERY` seconds and at the end.

    Args:
        file: to write; a collector of node_exporter wants the ending .prom.
    """

    label = "openmetrics"
    wants_layers = False

    def __init__(self, file: Path) -> None:
        self._file = file
        self._run = ""
        self._knows_clipping = True
        self._latest: dict[str, dict[str, float]] = {}
        self._peaks: dict[str, float] = {}
        self._events: Counter[tuple[str, str]] = Counter()
        self._told: set[tuple[object, ...]] = set()
        self._written = 0.0
        self._has_news = False

    def open(self, facts: RunFacts) -> None:
        """Write the file, so that one that can't be written is noticed at once."""
        self._run, self._knows_clipping = facts.name, facts.knows_clipping
        self._write(running=True)

    def show(self, record: StepRecord) -> None:
        """Keep the numbers of the latest step."""
        values = self._latest.setdefault(record.optimizer, {})
        values |= {"step": record.step, "last_step_timestamp_seconds": record.wall_time}
        if record.norm_is_known:
            self._show_norm(record, values)
        if record.max_norm is not None:
            values["max_norm"] = record.max_norm
        if record.loss is not None:
            values["loss"] = record.loss
        if record.learning_rates:
            values["learning_rate"] = record.learning_rates[0]
        self._has_news = True

    def _show_norm(self, record: StepRecord, values: dict[str, float]) -> None:
        values |= {"total_norm": record.total_norm, "nonfinite": record.nonfinite}
        if self._knows_clipping:
            values["clip_coef"] = record.clip_coef
        peak = self._peaks.get(record.optimizer, -math.inf)
        is_higher = math.isnan(record.total_norm) or record.total_norm > peak
        self._peaks[record.optimizer] = record.total_norm if is_higher and not math.isnan(peak) else peak

    def tell(self, event: Event) -> None:
        """Count an event once."""
        if event.key not in self._told:
            self._told.add(event.key)
            self._events[event.kind, event.severity] += 1
            self._has_news = True

    def rest(self) -> None:
        """Write what is new."""
        if self._has_news and time.monotonic() - self._written >= EVERY:
            self._write(running=True)

    def close(self, closing: Closing) -> None:
        """Write the last numbers."""
        self._write(running=False)

    def _write(self, *, running: bool) -> None:
        for optimizer, peak in self._peaks.items():
            self._latest[optimizer]["total_norm_max"] = peak
        beside = self._file.with_name(f"{self._file.name}.{os.getpid()}.new")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(exposition(self._run, self._latest, self._events, running=running), encoding="utf-8")
        beside.replace(self._file)
        self._written, self._peaks, self._has_news = time.monotonic(), {}, False


def exposition(
    run: str, latest: dict[str, dict[str, float]], events: Counter[tuple[str, str]], *, running: bool
) -> str:
    """The text of the file (OpenMetrics 1.0).

    >>> print(exposition("a", {"0": {"loss": 0.5}}, Counter(), running=True), end="")
    # TYPE gradwatch_loss gauge
    # HELP gradwatch_loss loss of the last step that has one
    gradwatch_loss{run="a",optimizer="0"} 0.5
    # TYPE gradwatch_running gauge
    # HELP gradwatch_running 1 while the run is recorded
    gradwatch_running{run="a"} 1
    # TYPE gradwatch_events counter
    # HELP gradwatch_events events that the detectors found
    # EOF
    """
    lines = []
    for name, text in _HELP.items():
        samples = [
            f'gradwatch_{name}{{run="{_escaped(run)}",optimizer="{_escaped(optimizer)}"}} {_number(values[name])}'
            for optimizer, values in latest.items()
            if name in values
        ]
        if name == "running":
            samples = [f'gradwatch_running{{run="{_escaped(run)}"}} {int(running)}']
        if samples:
            lines += [f"# TYPE gradwatch_{name} gauge", f"# HELP gradwatch_{name} {text}", *samples]
    lines += ["# TYPE gradwatch_events counter", "# HELP gradwatch_events events that the detectors found"]
    lines += [
        f'gradwatch_events_total{{run="{_escaped(run)}",kind="{kind}",severity="{severity}"}} {count}'
        for (kind, severity), count in sorted(events.items())
    ]
    return "\n".join([*lines, "# EOF", ""])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
