"""Detectors: folds over the records of one optimizer.

A detector decides from what was before the current step, learns only from steps that raised no
alarm, and works on the logarithm of norms, so that scaling every norm by a constant changes
nothing. Its state is a function of the records, so a recorded run can be judged again at any time:
the events of `replay` are those that were raised live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from gradwatch.detect.dead import Dead
from gradwatch.detect.desync import Desync
from gradwatch.detect.drift import Drift
from gradwatch.detect.explosion import Explosion
from gradwatch.detect.idle import IdleClipping
from gradwatch.detect.ineffective import IneffectiveClipping
from gradwatch.detect.loss_scale import LossScale
from gradwatch.detect.nonfinite import NonFinite
from gradwatch.detect.overclipping import OverClipping
from gradwatch.detect.spike import Spike
from gradwatch.detect.starvation import EpsStarvation
from gradwatch.detect.vanishing import Vanishing
from gradwatch.record import Event, StepRecord, merged

__all__ = [
    "Dead",
    "Desync",
    "Detector",
    "Drift",
    "EpsStarvation",
    "Explosion",
    "IdleClipping",
    "IneffectiveClipping",
    "LossScale",
    "NonFinite",
    "OverClipping",
    "Spike",
    "Vanishing",
    "detectors_for",
    "eps_of",
    "replay",
]


class Detector(Protocol):
    def update(self, record: StepRecord) -> list[Event]:
        """Take the next record of one optimizer; return what it shows, usually nothing.

        A fault that lasts is one event, given when it is found, again when it gets worse, and
        again with `until` when it is over.
        """
        ...


def detectors_for(optimizer_class: str = "SGD", eps: float | None = None) -> list[Detector]:
    """A fresh set of all detectors, for one optimizer of the given class name and the eps it divides with.

    >>> [type(detector).__name__ for detector in detectors_for()]
    ['NonFinite', 'LossScale', 'Explosion', 'Spike', 'Drift', 'Vanishing', 'Dead', 'EpsStarvation', 'OverClipping',
     'IdleClipping', 'IneffectiveClipping', 'Desync']
    """
    return [
        NonFinite(),
        LossScale(),
        Explosion(optimizer_class),
        Spike(),
        Drift(),
        Vanishing(),
        Dead(),
        EpsStarvation(eps),
        OverClipping(optimizer_class),
        IdleClipping(),
        IneffectiveClipping(),
        Desync(),
    ]


def eps_of(settings: Mapping[str, object]) -> float | None:
    """The eps that an optimizer of these settings divides with; None where it has no single one.

    >>> eps_of({"lr": 0.1}), eps_of({"lr": 0.1, "eps": 1e-8})
    (None, 1e-08)
    """
    eps = settings.get("eps")
    return float(eps) if isinstance(eps, float) and eps > 0 else None


def replay(records: Iterable[StepRecord], optimizer_class: str = "SGD", eps: float | None = None) -> list[Event]:
    """The events that the records of one optimizer raise, each as it was at the end.

    >>> norms = [1.0] * 100 + [50.0] + [1.0] * 20
    >>> records = [StepRecord(step=step, total_norm=norm) for step, norm in enumerate(norms)]
    >>> [(event.kind, event.step) for event in replay(records)]
    [('spike', 100)]
    """
    detectors = detectors_for(optimizer_class, eps)
    return merged(event for record in records for d in detectors for event in d.update(record))
