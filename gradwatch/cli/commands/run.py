"""`gradwatch run`: check the arguments now, run the script when the command line is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradwatch.errors import BadArgument
from gradwatch.script import launch as launcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A script to run and how to record it."""

    program: launcher.Program
    run: Path
    max_norm: float | None
    steps: int | None
    tensorboard: bool


def prepare_launch(
    arguments: list[str],
    folder: Path | None,
    module: bool,
    max_norm: float | None,
    steps: int | None,
    tensorboard: bool,
) -> Launch:
    """Find the script and the folder of its run.

    Raises:
        BadArgument: ``max_norm`` is not above 0.
        ScriptNotFound: there is no such script or module.
        RunInUse: the folder is a file.
    """
    if max_norm is not None and not max_norm > 0:
        raise BadArgument(f"--max-norm is {max_norm!r}; expected a number above 0, or inf.")
    program, run = launcher.prepare(arguments, folder, module)
    return Launch(program=program, run=run, max_norm=max_norm, steps=steps, tensorboard=tensorboard)


def launch(wanted: Launch) -> None:
    """Run the script in this process, which ends as the script ends."""
    launcher.launch(wanted.program, wanted.run, wanted.max_norm, wanted.steps, wanted.tensorboard)
