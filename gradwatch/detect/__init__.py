"""Detectors: folds over the records of one optimizer.

A detector decides from what was before the current step, learns only from steps that raised no
alarm, and works on the logarithm of norms, so that scaling every norm by a constant changes
nothing. Its state is a function of the records, so a recorded run can be judged again at any time:
the events of `replay` are those that were raised live.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gradwatch.detect.dead import Dead
from gradwatch.detect.explosion import Explosion
from gradwatch.detect.idle import IdleClipping
from gradwatch.detect.ineffective import IneffectiveClipping
from gradwatch.detect.loss_scale import LossScale
from gradwatch.detect.nonfinite import NonFinite
from gradwatch.detect.overclipping import OverClipping
from gradwatch.detect.spike import Spike
from gradwatch.detect.vanishing import Vanishing
from gradwatch.record import Event, StepRecord

__all__ = [
    "Dead",
    "Detector",
    "Explosion",
    "IdleClipping",
    "IneffectiveClipping",
    "LossScale",
    "NonFinite",
    "OverClipping",
    "Spike",
    "Vanishing",
    "detectors_for",
    "replay",
]

MEMORY = 1000
"""No detector looks further back than this many steps."""


class Detector(Protocol):
    def update(self, record: StepRecord) -> list[Event]:
        """Take the next record of one optimizer; return what it shows, usually nothing."""
        ...


def detectors_for(optimizer_class: str = "SGD") -> list[Detector]:
    """A fresh set of all detectors, for one optimizer of the given class name.

    >>> [type(detector).__name__ for detector in detectors_for()]
    ['NonFinite', 'LossScale', 'Explosion', 'Spike', 'Vanishing', 'Dead', 'OverClipping', 'IdleClipping',
     'IneffectiveClipping']
    """
    return [
        NonFinite(),
        LossScale(),
        Explosion(),
        Spike(),
        Vanishing(),
        Dead(),
        OverClipping(optimizer_class),
        IdleClipping(),
        IneffectiveClipping(),
    ]


def replay(records: Iterable[StepRecord], optimizer_class: str = "SGD") -> list[Event]:
    """The events that the records of one optimizer raise, in order.

    >>> norms = [1.0] * 100 + [50.0] + [1.0] * 20
    >>> records = [StepRecord(step=step, total_norm=norm) for step, norm in enumerate(norms)]
    >>> [(event.kind, event.step) for event in replay(records)]
    [('spike', 100)]
    """
    detectors = detectors_for(optimizer_class)
    return [event for record in records for d in detectors for event in d.update(record)]
