"""`gradwatch run`: check the arguments now, run the script when the command line is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from gradwatch.capture import CaptureOptions
from gradwatch.cli.arguments import check_kinds
from gradwatch.errors import BadArgument
from gradwatch.script import launch as launcher
from gradwatch.script.plan import ClipPlan, RecordingPlan
from gradwatch.sinks.targets import Destinations


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A script to run, how to record it, and the folder as the user wrote it."""

    program: launcher.Program
    plan: RecordingPlan
    shown: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `gradwatch run` as they were given."""

    max_norm: float | None = None
    clip: str | None = None
    steps: int | None = None
    first_step: int | None = None
    stop_on: tuple[str, ...] = ()
    skip_nonfinite: bool = False
    every: int = 1
    ranks: bool = False
    ranks_collective: bool = False
    to: tuple[str, ...] = ()
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_link: str | None = None
    tensorboard: bool = False
    recorder: str = "thread"
    capture: bool = False
    capture_without_weights: bool = False


def prepare_launch(arguments: list[str], folder: Path | None, module: bool, options: RunOptions) -> Launch:
    """Find the script and the folder of its run.

    Raises:
        BadArgument: an option has an invalid value, or two exclude each other.
        ScriptNotFound: there is no such script or module.
        RunInUse: the folder is a file.
    """
    clip = check_options(options)
    program, run = launcher.prepare(arguments, folder, module)
    plan = RecordingPlan(
        run=run.absolute(),
        max_norm=options.max_norm,
        clip=clip,
        steps=options.steps,
        first_step=options.first_step,
        stop_on=options.stop_on,
        skip_nonfinite=options.skip_nonfinite,
        every=options.every,
        ranks=options.ranks or options.ranks_collective,
        ranks_collective=options.ranks_collective,
        to=options.to,
        notify=options.notify,
        notify_link=options.notify_link,
        tensorboard=options.tensorboard,
        recorder=options.recorder,
        capture=_capture_options(options),
    )
    return Launch(program=program, plan=plan, shown=run)


def check_options(options: RunOptions) -> ClipPlan | None:
    """Check what can be checked without the script; return the policy of ``--clip``.

    Raises:
        BadArgument: an option has an invalid value, or two exclude each other.
        UnsupportedVersion: the package of a tracker is not installed.
    """
    _check_max_norm(options)
    _check_recorder(options)
    check_kinds(options.stop_on)
    Destinations(to=options.to, notify=options.notify, notify_link=options.notify_link).trackers()
    clip = None if options.clip is None else ClipPlan.parse(options.clip)
    clips = clip is not None or (options.max_norm is not None and math.isfinite(options.max_norm))
    if options.every != 1 and (clips or options.skip_nonfinite):
        raise BadArgument(
            f"--every is {options.every}; expected 1, because clipping and --skip-nonfinite measure every step."
        )
    return clip


def _check_max_norm(options: RunOptions) -> None:
    if options.max_norm is None:
        return
    if not options.max_norm > 0:
        raise BadArgument(f"--max-norm is {options.max_norm!r}; expected a number above 0, or inf.")
    if options.clip is not None:
        raise BadArgument("--clip and --max-norm were both given; expected one of them.")


def _check_recorder(options: RunOptions) -> None:
    if options.recorder not in ("thread", "process"):
        raise BadArgument(f"--recorder is {options.recorder!r}; expected thread or process.")
    if options.recorder == "process" and options.ranks_collective:
        raise BadArgument("--recorder process takes no --ranks-collective, which needs the thread.")


def _capture_options(options: RunOptions) -> CaptureOptions | None:
    wanted = options.capture or options.capture_without_weights
    return CaptureOptions(weights=not options.capture_without_weights) if wanted else None


def launch(wanted: Launch) -> None:
    """Run the script in this process, which ends as the script ends."""
    launcher.launch(wanted.program, wanted.plan, wanted.shown)
