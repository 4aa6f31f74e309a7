"""`gradwatch replay`: parse the options, run the script, replay the step, print the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from gradwatch.analysis.history import newest_first
from gradwatch.analysis.replays.result import Replay, read_replay, write_replay
from gradwatch.capture import Capture, CaptureInfo, capture_folders, survey
from gradwatch.capture.listing import FOLDER
from gradwatch.cli.output import print_json, print_view, screen
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument, CannotReplay, GradwatchError, RunNotFound
from gradwatch.replaying.bundle import unpack, write_bundle
from gradwatch.script.launch import prepare
from gradwatch.text import file_size
from gradwatch.views.console.replay import replay_view

MOST_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command, which stand before RUN or between RUN and SCRIPT."""

    step: int | None = None
    optimizer: str | None = None
    module: bool = False
    json: bool = False
    bundle: Path | None = None


def replay(arguments: Sequence[str], options: Options) -> None:
    """Replay a captured step of a run, or print what its last replay found where no script is given."""
    run, rest = run_and_rest(arguments)
    script, options = split(rest, options)
    if run is None:
        run = _newest()
        if script and capture_folders(run):  # of another script, its captures fit no model of this one
            print_lines(f"gradwatch: replaying {run}, the newest run with captures", err=True)
    with _folders(run, options) as folders:
        folder = folders[0]
        found = _stored(folder) if not script else _replayed(folder, script, options)
        if options.bundle is not None:
            _bundle(found, folder, options)
        if options.json:
            print_json(found.as_dict())
        else:
            print_view(replay_view(found, screen(), 1, len(folders)))


def _newest() -> Path:
    """The newest run that has captures; of runs without any, the newest.

    Raises:
        RunNotFound: there is no run.
    """
    runs = newest_first()
    return next((run for run in runs if capture_folders(run)), runs[0])


def run_and_rest(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The run, None if none is given, and what follows it. A Python file is no run, so that it is the script.

    >>> run_and_rest(["a.zip", "train.py"])[1], run_and_rest([])
    (['train.py'], (None, []))
    """
    if not arguments or (arguments[0].endswith(".py") and Path(arguments[0]).is_file()):
        return None, list(arguments)
    return Path(arguments[0]), list(arguments[1:])


def split(arguments: Sequence[str], options: Options) -> tuple[list[str], Options]:
    """Take the options that stand before the script.

    >>> split(["--step", "5", "train.py", "--step", "7"], Options())
    (['train.py', '--step', '7'], Options(step=5, optimizer=None, module=False, json=False, bundle=None))
    """
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        if name == "-m":
            options = replace(options, module=True)
        elif name == "--json":
            options = replace(options, json=True)
        elif name in ("--step", "--optimizer", "--bundle"):
            if not value and not rest:
                raise BadArgument(f"{name} needs a value.")
            options = _with(options, name, value or rest.pop(0))
        else:
            raise BadArgument(f"gradwatch replay has no option {name!r}; put the script's options after the script.")
    return rest, options


def _with(options: Options, name: str, value: str) -> Options:
    if name == "--optimizer":
        return replace(options, optimizer=value)
    if name == "--bundle":
        return replace(options, bundle=Path(value).absolute())  # the script may change the working directory
    if not value.isdigit():
        raise BadArgument(f"--step is {value!r}; expected a step's number.")
    return replace(options, step=int(value))


# --------------------------------------------------------------------------------- which capture


@contextmanager
def _folders(run: Path, options: Options) -> Iterator[list[Path]]:
    """The captures of a run that are wanted, the first to be replayed first; the one of a capture or of a bundle."""
    if run.is_file() and run.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="gradwatch-") as folder:
            yield [unpack(run, Path(folder))]
        return
    if not run.exists():
        raise RunNotFound(f"There is no run, capture or bundle at {str(run)!r}.")
    run = run.absolute()
    if (run / "capture.json").is_file():
        yield [run]
        return
    listed = survey(run)
    found, unreadable = listed.captures, listed.unreadable
    if not found:
        reason = "`gradwatch run --capture` and attach(capture=True) keep bad steps."
        if unreadable:
            reason = f"{unreadable[0].folder.name} can't be read: {unreadable[0].why}"
        raise CannotReplay(f"{str(run)!r} holds no captures that can be read. {reason}")
    wanted = [info.folder for info in found if _is_wanted(info, options)]
    if not wanted:
        raise CannotReplay(f"{str(run)!r} holds no capture {_asked(options)}; it has {_had(found, options)}.")
    yield wanted


def _is_wanted(about: CaptureInfo, options: Options) -> bool:
    return options.step in (None, about.step) and options.optimizer in (None, about.optimizer)


def _asked(options: Options) -> str:
    step = "" if options.step is None else f"of step {options.step}"
    optimizer = "" if options.optimizer is None else f"of optimizer {options.optimizer}"
    return " ".join(part for part in (step, optimizer) if part)


def _had(found: Sequence[CaptureInfo], options: Options) -> str:
    """The captures there are, by step; with the optimizer where one was asked for."""
    names = (
        f"step {info.step}" + ("" if options.optimizer is None else f" of optimizer {info.optimizer}") for info in found
    )
    return ", ".join([*dict.fromkeys(names)][:MOST_TOLD])


# ---------------------------------------------------------------------------------- what is done


def _stored(folder: Path) -> Replay:
    found = read_replay(folder) or read_replay(folder.parent)
    if found is None:
        raise CannotReplay(
            f"{str(folder)!r} has not been replayed. Give the script of the training:"
            " gradwatch replay RUN SCRIPT [ARGS]..."
        )
    return found


def _replayed(folder: Path, script: list[str], options: Options) -> Replay:
    from gradwatch.capture import classes_in, read_all
    from gradwatch.replaying.replay import replay as replay_capture
    from gradwatch.script.capture_model import assembled, find_model
    from gradwatch.script.one_process import alone

    program, _ = prepare(script, None, options.module)
    about = read_all(folder)
    parts = _parts(about)
    with alone() if about.ranks > 1 else nullcontext():
        called = find_model(program, list(parts.values()), quiet=options.json)
    model = called.model if len(parts) == 1 else assembled(parts)
    capture = read_all(folder, classes=classes_in((called.args, called.kwargs)))
    found = replay_capture(capture, model, (called.args, called.kwargs), write=False, threshold=_threshold(folder))
    try:
        write_replay(found, folder)
    except OSError as error:
        print_lines(f"gradwatch: the result is not kept beside the capture: {error}", err=True)
    return found


def _parts(capture: Capture) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the parameters of each module that was called, by the module's name."""
    from gradwatch.replaying.replay import part_of, shapes_of

    names = {forward.module for group in capture.groups for forward in group.forwards} or {""}
    found = {}
    for name in sorted(names):
        found[name] = shapes_of(part_of(capture, name))
    if not all(found.values()):
        raise CannotReplay("The capture does not say which parameters its model has.")
    return found


def _threshold(folder: Path) -> float | None:
    """The clipping threshold advised for the run; None if there is none."""
    from gradwatch.analysis.run import Run

    if folder.parent.name != FOLDER:  # of a bundle
        return None
    try:
        return Run(folder.parents[1]).recommend().max_norm
    except (GradwatchError, OSError):
        return None


def _bundle(found: Replay, folder: Path, options: Options) -> None:
    assert options.bundle is not None
    size = write_bundle(found, folder, options.bundle)
    print_lines(f"wrote {options.bundle.name}, {file_size(size)}; it holds the batch and the weights", err=True)
