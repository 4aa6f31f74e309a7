"""`gradwatch run`: record an unmodified training script.

The script finds the `__main__`, `sys.argv` and `sys.path` that it would find under `python`. gradwatch does not
import torch before the script does, because a script may set variables that torch reads at import.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING

from gradwatch.errors import RunInUse, ScriptNotFound, TrainingStopped
from gradwatch.script.closing import closing_lines
from gradwatch.script.found_config import ConfigListener
from gradwatch.script.imports import after_import
from gradwatch.script.leaving import listen_to_leaving
from gradwatch.script.plan import RecordingPlan
from gradwatch.script.processes import listen_to_processes
from gradwatch.text import exit_reason

if TYPE_CHECKING:
    from gradwatch.script.discover import Discovery


STOPPED = 3
"""Exit code of a script that an event of ``--stop-on`` ended."""


@dataclass(frozen=True, slots=True)
class Program:
    """A script or module to run."""

    path: Path  # absolute, as in `__file__` and in tracebacks
    argv: tuple[str, ...]  # its `sys.argv`
    spec: importlib.machinery.ModuleSpec | None = None  # of a module


def prepare(arguments: Sequence[str], run: Path | None, module: bool) -> tuple[Program, Path]:
    """Find the program and the folder to record into.

    Raises:
        ScriptNotFound: there is no such file or module.
        RunInUse: the path of the run is a file.
    """
    first, *rest = arguments
    program = _module(first, rest) if module else _script(first, rest)
    stem = first if module else program.path.stem
    folder = run or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
    if folder.exists() and not folder.is_dir():
        raise RunInUse(f"--run is {str(folder)!r}, which is a file. Give a folder, new or of a run to continue.")
    return program, folder


def _script(name: str, arguments: Sequence[str]) -> Program:
    path = Path(name)
    if not path.is_file():
        raise ScriptNotFound(f"There is no script at {name!r}. Give a Python file, or `-m` and the name of a module.")
    return Program(path.absolute(), (name, *arguments))


def _module(name: str, arguments: Sequence[str]) -> Program:
    sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError):
        spec = None
    finally:
        del sys.path[0]
    if spec is None or not spec.origin:
        raise ScriptNotFound(f"There is no module {name!r} to run. Give one that `python -m` would run.")
    return Program(Path(spec.origin), (spec.origin, *arguments), spec)


def launch(program: Program, plan: RecordingPlan, shown: Path | None = None) -> None:
    """Run the program in this process, record what it trains, and end the process as the program would.

    Args:
        program: from `prepare`.
        plan: how to record it. The folder is absolute: the program may change its directory.
        shown: the folder as the user wrote it.
    """
    ending = _Ending(shown=shown or plan.run, plan=plan, started=time.time())
    configs = ConfigListener()
    after_import("torch", lambda: ending.found.append(_discover(plan, configs)))
    stops = [listen_to_processes(plan), listen_to_leaving(ending.before_leaving), configs.stop]
    main = become_main(program)
    code, reason = 0, "exit"
    try:
        exec(code_of(program), main.__dict__)
    except SystemExit as left:
        ending.end_after_threads(exit_reason(left.code))
        raise
    except KeyboardInterrupt as interrupt:
        show(interrupt, program)
        ending.end("exception KeyboardInterrupt")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except TrainingStopped as stopped:
        _say(str(stopped))
        code, reason = STOPPED, f"exception {type(stopped).__name__}"
    except BaseException as error:
        show(error, program)
        code, reason = 1, f"exception {type(error).__name__}"
    finally:
        for stop in stops:
            stop()
    ending.end_after_threads(reason)
    sys.exit(code)


def _discover(plan: RecordingPlan, configs: ConfigListener) -> Discovery:
    from gradwatch.script.discover import Discovery

    return Discovery(plan, configs=configs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """Closes the run and says on stderr what it holds; stdout belongs to the script."""

    shown: Path  # the run as the user wrote it
    plan: RecordingPlan
    started: float
    found: list[Discovery] = field(default_factory=list)  # empty until the script imports torch
    process: int = field(default_factory=os.getpid)

    def end_after_threads(self, reason: str) -> None:
        """End it when the script's threads have ended: Python waits for them, then calls what is registered here."""
        main = threading.main_thread()
        if any(one is not main and not one.daemon for one in threading.enumerate()):
            atexit.register(self.end, reason)
        else:
            self.end(reason)

    def end(self, reason: str) -> None:
        """End the recording; a fault here must not change the script's exit code."""
        try:
            self._end(reason)
        except Exception as fault:
            _say(f"can't tell what was recorded: {type(fault).__name__}: {fault}")

    def _end(self, reason: str) -> None:
        for discovery in self.found:
            discovery.close(reason)
        # Under `torchrun` rank 0 writes the run, and a forked child leaves the last word to its parent.
        if os.environ.get("RANK", "0") == "0" and os.getpid() == self.process:
            opened = next((discovery.opened for discovery in self.found), None)
            failed = opened is None and any(discovery.failed for discovery in self.found)
            why = why_nothing(self.found)
            for line in closing_lines(self.shown, self.plan.run, self.started, why, opened, failed=failed):
                _say(line)

    def before_leaving(self, reason: str, notice: str | None) -> None:
        """End the recording; a fault here must not keep the script from leaving."""
        if self.found and _is_within_gradwatch():
            return  # a signal handler of the script leaves; what it interrupted may hold a lock that ending needs
        with contextlib.suppress(Exception):
            self.end(reason)
            if notice is not None:
                _say(notice)


def _is_within_gradwatch() -> bool:
    from gradwatch.recording import lifecycle  # its package imports torch, which a script must be the first to do

    return lifecycle.is_inside()


def _say(text: str) -> None:
    """Print a line on stderr, as narrow as its terminal; not where the script has closed it or put something odd there.

    What is printed to a closed file stays in Python's buffer, and fails once more as the interpreter ends, by code 120.
    """
    line = f"gradwatch: {text}"
    with contextlib.suppress(Exception):
        if sys.stderr is sys.__stderr__:
            os.write(2, b"")
        print(folded(line, shutil.get_terminal_size().columns) if sys.stderr.isatty() else line, file=sys.stderr)  # noqa: T201


def folded(line: str, width: int) -> str:
    """Break a line that is too long, first at its semicolons, so that a command after one stays whole if it can.

    >>> print(folded("gradwatch: recorded 60 steps; gradwatch report runs/a", 40))
    gradwatch: recorded 60 steps;
        gradwatch report runs/a
    """
    if len(line) <= width:
        return line
    parts = [textwrap.wrap(part, max(20, width - 5), break_on_hyphens=False) for part in line.split("; ")]
    return ";\n    ".join("\n    ".join(part) for part in parts)


def become_main(program: Program) -> ModuleType:
    """Make the module `__main__` of the program, and give it its `sys.argv` and `sys.path`."""
    main = ModuleType("__main__")
    main.__file__ = str(program.path)
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    if program.spec is not None:
        main.__spec__ = program.spec
        main.__package__ = program.spec.name.rpartition(".")[0]
        main.__loader__ = program.spec.loader
    sys.modules["__main__"] = main
    sys.argv = list(program.argv)
    # As Python does: the folder of the script, or the current one for -m.
    sys.path[0] = str(program.path.parent.resolve()) if program.spec is None else str(Path.cwd())
    return main


def code_of(program: Program) -> CodeType:
    """Compile the program under the path that its tracebacks show."""
    return compile(program.path.read_bytes(), str(program.path), "exec", dont_inherit=True)


def run_until(
    program: Program, enough: type[BaseException], at_end: Callable[[], None] = lambda: None
) -> BaseException | None:
    """Run the program as `__main__` until it ends or ``enough`` is raised; return the exception that ended it, if any.

    ``at_end`` is called while the variables of the function that was left are still alive.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    main = become_main(program)
    try:
        exec(code_of(program), main.__dict__)
    except (enough, SystemExit):
        at_end()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        at_end()
        return error
    else:
        at_end()
    return None


def show(error: BaseException, program: Program) -> None:
    """Print the traceback of the script's own exception without gradwatch's frames."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename != str(program.path):
        own = own.tb_next
    shown: BaseException | None = error.with_traceback(own)
    while shown is not None:
        shown.__traceback__ = _without_our_frames(shown.__traceback__)
        shown = shown.__cause__ or shown.__context__
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.excepthook(type(error), error, error.__traceback__)


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of gradwatch's hooks, which the script's own calls passed through."""
    if traceback is None:
        return None
    following = _without_our_frames(traceback.tb_next)
    if Path(traceback.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1]):
        return following
    return TracebackType(following, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


WITH_OPTIMIZERS_OF_THEIR_OWN = {
    "keras": "Keras has optimizers of its own; record them by gradwatch.integrations.keras.GradWatchCallback",
    "fastai": "fastai has optimizers of its own; give it PyTorch's by OptimWrapper",
}


def _own_optimizers() -> str:
    """Name the framework whose optimizers PyTorch's hooks do not see."""
    return "".join(f" by PyTorch. {why}" for name, why in WITH_OPTIMIZERS_OF_THEIR_OWN.items() if name in sys.modules)


def why_nothing(found: Sequence[Discovery]) -> str:
    """The reason why a script left no step to record."""
    if not found and "torch" in sys.modules:
        return "gradwatch could not start, as the message above says"
    if not found:
        return "the script did not import torch"
    (discovery,) = found
    if discovery.failed:
        return "the run could not be written"
    if discovery.steps:
        return "the run was removed, or could not be written"
    if not discovery.backwards:
        return "the script imported torch and never called backward"
    if not discovery.optimizers_seen:
        return f"the script has no optimizer and clips no gradient{_own_optimizers()}"
    return "no optimizer made a step"
