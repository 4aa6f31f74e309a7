"""How `gradwatch run` records a script: fixed before the script starts, and passed to the processes it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """What to record a script into, and what to change about its training.

    Attributes:
        run: the folder of the run, absolute: the script may change its directory.
        max_norm: replaces the threshold of the script's clip calls, or clips where the script does not. Infinity
            turns clipping off; None leaves the script as it is.
        steps: how many steps an optimizer may make before the script is ended; None is without limit.
        tensorboard: whether to write event files as well.
    """

    run: Path
    max_norm: float | None = None
    steps: int | None = None
    tensorboard: bool = False
