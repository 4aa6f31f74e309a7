"""How `gradwatch run` records a script: fixed before the script starts, and passed to the processes it starts."""

from __future__ import annotations

import math
import multiprocessing
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gradwatch.capture import CaptureOptions
from gradwatch.errors import BadArgument

PROCESS = "-process-"  # between the name of the run and the number of the process

POLICIES = {
    "norm": ("NormClip", 0, math.inf),
    "value": ("ValueClip", 0, math.inf),
    "layer-norm": ("LayerNormClip", 0, math.inf),
    "auto": ("AutoClip", 0, 100),
    "quantile": ("QuantileClip", 0, 1),
    "zclip": ("ZClip", 0, math.inf),
    "agc": ("AGC", 0, math.inf),
    "adagc": ("AdaGC", 0, math.inf),
    "skip-outliers": ("SkipOutliers", 0, math.inf),
}
"""The policies of `gradwatch.clip` by their names on the command line, with the range of their first argument."""

_NEED_A_NUMBER = ("norm", "value", "layer-norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """A clipping policy by name, so that it can be checked before torch is imported.

    Attributes:
        policy: the name of a class in `gradwatch.clip`.
        number: its first argument; None takes the default.
    """

    policy: str
    number: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME`` or ``NAME:NUMBER``; a number alone is a threshold of the norm.

        Raises:
            BadArgument: there is no such policy, or its number is missing or out of range.

        >>> ClipPlan.parse("1.5")
        ClipPlan(policy='NormClip', number=1.5)
        >>> ClipPlan.parse("zclip"), ClipPlan.parse("quantile:0.95").number
        (ClipPlan(policy='ZClip', number=None), 0.95)
        """
        name, _, argument = text.partition(":")
        if name not in POLICIES and not argument:
            name, argument = "norm", text
        if name not in POLICIES:
            raise BadArgument(f"--clip is {text!r}; expected a threshold, or one of {', '.join(POLICIES)}.")
        policy, low, high = POLICIES[name]
        if not argument:
            if name in _NEED_A_NUMBER:
                raise BadArgument(f"--clip is {text!r}; expected a threshold after it, for example {name}:1.0.")
            return cls(policy=policy)
        try:
            number = float(argument)
        except ValueError:
            number = math.nan
        if not low < number < high:
            known = f"a threshold, or one of {', '.join(POLICIES)}" if name == "norm" else f"{name}:NUMBER"
            limit = "above 0" if high == math.inf else f"between {low} and {high}"
            raise BadArgument(f"--clip is {text!r}; expected {known}, with a number {limit}.")
        return cls(policy=policy, number=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """What to record a script into, and what to change about its training.

    Attributes:
        run: the folder of the run, absolute: the script may change its directory.
        max_norm: replaces the threshold of the script's clip calls, or clips where the script does not. Infinity
            turns clipping off; None leaves the script as it is.
        steps: how many steps an optimizer may make before the script is ended; None is without limit.
        first_step: the number of the first step; None goes on after the last step in the run.
        tensorboard: whether to write event files as well.
        recorder: "thread" or "process", which writes the run.
        clip: a policy that clips instead of the script's own clip calls; None leaves these as they are.
        stop_on: kinds of event that end the script.
        skip_nonfinite: leave out an update whose gradients hold a NaN or an infinity.
        every: record each step whose number this divides.
        notify: addresses of apprise, which may hold passwords.
        notify_link: stands at the end of each message to them.
        to: trackers, as `gradwatch.sinks.targets` parses them.
        ranks: record every rank of a training by several processes before its gradients are reduced.
        ranks_collective: let the ranks add up their numbers by a collective.
        capture: which bad steps to keep; None for none.
    """

    run: Path
    max_norm: float | None = None
    steps: int | None = None
    first_step: int | None = None
    tensorboard: bool = False
    recorder: str = "thread"
    clip: ClipPlan | None = None
    stop_on: tuple[str, ...] = ()
    skip_nonfinite: bool = False
    every: int = 1
    ranks: bool = False
    ranks_collective: bool = False
    capture: CaptureOptions | None = None
    to: tuple[str, ...] = ()
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_link: str | None = None

    @property
    def replaced_max_norm(self) -> float | None:
        """The threshold that the script's own clip calls get; a policy takes their place, so that they do nothing."""
        return math.inf if self.clip is not None else self.max_norm


def run_of_this_process(run: Path, is_bare_fork: bool = False) -> Path:
    """Return the run folder of a child process: the script's, with a number behind it.

    The number is the one that multiprocessing gives the process, or its id after `os.fork`.
    """
    process: Any = multiprocessing.current_process()
    number = str(os.getpid()) if is_bare_fork else "-".join(map(str, process._identity))
    return run.with_name(f"{run.name}{PROCESS}{number}")
