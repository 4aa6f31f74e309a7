"""The protocol of a destination outside the run: a tracker, a metrics file, a function, a notification service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from gradwatch.record import Event, StepRecord

Closing: TypeAlias = Mapping[str, str | int | float | None]
"""What is known of a run at its end: verdict, reason, fault, how it ended, steps and a few numbers."""


_HINTS = {"wandb": "`wandb login` signs in; WANDB_MODE=offline writes files without an account."}
_OFFLINE = ("offline", "dryrun", "disabled")
"""Values of ``WANDB_MODE`` that need no account."""


def hint(label: str, environment: Mapping[str, str] = os.environ) -> str:
    """The usual remedy if a tracker of this label fails, behind a space; empty if there is none.

    The tracker's own message may hold a key, and is not shown.

    >>> hint("wandb", {}), hint("wandb", {"WANDB_MODE": "offline"}), hint("mlflow", {})
    (' `wandb login` signs in; WANDB_MODE=offline writes files without an account.', '', '')
    """
    if environment.get("WANDB_MODE", "").lower() in _OFFLINE or label not in _HINTS:
        return ""
    return f" {_HINTS[label]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The facts of a run that a tracker gets before the first step.

    Attributes:
        path: its folder.
        config: its hyperparameters.
        several: whether it has several optimizers, whose names then stand in the series.
        knows_clipping: whether clipping would have been recorded; an imported history does not tell of it.
    """

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    several: bool = False
    knows_clipping: bool = True

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.resolve().name


class Tracker(Protocol):
    """Is fed in a thread of its own. Whatever it raises ends it, and nothing else.

    Attributes:
        label: its name in messages, without a secret.
        wants_layers: whether records come with the statistics of their parameters.
    """

    label: str
    wants_layers: bool

    def open(self, facts: RunFacts) -> None:
        """Begin; called once, before everything else."""
        ...

    def show(self, record: StepRecord) -> None:
        """Take a record that is on the disk."""
        ...

    def tell(self, event: Event) -> None:
        """Take an event, again if it has changed."""
        ...

    def rest(self) -> None:
        """Nothing waits now; called about once a second, and after each batch."""
        ...

    def close(self, closing: Closing) -> None:
        """End; called once."""
        ...
