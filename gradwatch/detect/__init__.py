"""Detectors: folds over the records of one optimizer.

A detector compares a step with the steps before it, learns only from steps that raised no alarm, and works on
the logarithm of norms, so that scaling every norm by a constant changes nothing. Its state is a function of
the records. A recorded run can therefore be examined again at any time: `replay` gives the same events as the live run.
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
from gradwatch.detect.optimizers import OptimizerTraits, eps_of, traits_of
from gradwatch.detect.overclipping import OverClipping
from gradwatch.detect.spike import Spike
from gradwatch.detect.starvation import EpsStarvation
from gradwatch.detect.updates import HeldSpike, NothingMoves, StaleSecondMoment, UpdateSpike
from gradwatch.detect.vanishing import Vanishing
from gradwatch.record import Event, StepRecord, merged

__all__ = [
    "Dead",
    "Desync",
    "Detector",
    "Drift",
    "EpsStarvation",
    "Explosion",
    "HeldSpike",
    "IdleClipping",
    "IneffectiveClipping",
    "LossScale",
    "NonFinite",
    "NothingMoves",
    "OptimizerTraits",
    "OverClipping",
    "Spike",
    "StaleSecondMoment",
    "UpdateSpike",
    "Vanishing",
    "detectors_for",
    "eps_of",
    "replay",
    "traits_of",
]


class Detector(Protocol):
    def update(self, record: StepRecord) -> list[Event]:
        """Take the next record of one optimizer; return the events it raises, usually none.

        A fault that lasts is one event. It is given when it is found, again when it gets graver, and again
        with `until` when it is over.
        """
        ...


def detectors_for(optimizer_class: str = "SGD", settings: Mapping[str, object] | None = None) -> list[Detector]:
    """Return a fresh set of all detectors for one optimizer, given its class name and its recorded settings.

    >>> [type(detector).__name__ for detector in detectors_for()]
    ['NonFinite', 'LossScale', 'Explosion', 'Spike', 'Drift', 'Vanishing', 'Dead', 'EpsStarvation', 'OverClipping',
     'IdleClipping', 'IneffectiveClipping', 'Desync', 'UpdateSpike', 'HeldSpike', 'StaleSecondMoment',
     'NothingMoves']
    """
    traits = traits_of(optimizer_class, settings)
    return [
        NonFinite(),
        LossScale(),
        Explosion(traits.update_rule, traits.iterates),
        Spike(),
        Drift(traits.decay),
        Vanishing(),
        Dead(),
        EpsStarvation(traits),
        OverClipping(traits.update_rule),
        IdleClipping(),
        IneffectiveClipping(),
        Desync(),
        UpdateSpike(),
        HeldSpike(),
        StaleSecondMoment(),
        NothingMoves(),
    ]


def replay(
    records: Iterable[StepRecord], optimizer_class: str = "SGD", settings: Mapping[str, object] | None = None
) -> list[Event]:
    """Return the events that the records of one optimizer raise, each as it was given last.

    >>> norms = [1.0] * 100 + [50.0] + [1.0] * 20
    >>> records = [StepRecord(step=step, total_norm=norm) for step, norm in enumerate(norms)]
    >>> [(event.kind, event.step) for event in replay(records)]
    [('spike', 100)]
    """
    detectors = detectors_for(optimizer_class, settings)
    return merged(event for record in records for d in detectors for event in d.update(record))
