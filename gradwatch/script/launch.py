"""`gradwatch run`: a training script as it is, recorded.

The script finds what it would find under `python`: its own `__main__`, `sys.argv` and `sys.path`.
torch is not imported before the script imports it, for a script may set what torch reads at import.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING

from gradwatch.errors import RunInUse, ScriptNotFound

if TYPE_CHECKING:
    from gradwatch.script.discover import Discovery


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be run: where it lies, its `sys.argv`, and its spec if it is a module."""

    path: Path  # absolute, as Python has it in `__file__` and in tracebacks
    argv: tuple[str, ...]
    spec: importlib.machinery.ModuleSpec | None = None


def prepare(arguments: Sequence[str], run: Path | None, module: bool) -> tuple[Program, Path]:
    """Find the program and the folder to record into.

    Raises:
        ScriptNotFound: there is no such file or module.
        RunInUse: the folder for the run is a file.
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


def launch(
    program: Program, run: Path, max_norm: float | None = None, steps: int | None = None, tensorboard: bool = False
) -> None:
    """Run the program in this process and record what it trains. Ends the process as it would have ended.

    ``max_norm`` takes the place of the threshold at which the script clips, if it does; after ``steps``
    steps of an optimizer the script is ended; ``tensorboard`` writes event files as well.
    """
    found: list[Discovery] = []
    after_import("torch", lambda: found.append(_discover(run, max_norm, steps, tensorboard)))
    main = become_main(program)
    code, reason = 0, "exit"
    try:
        exec(code_of(program), main.__dict__)
    except SystemExit:
        _end(found, run, "exit")
        raise
    except KeyboardInterrupt as interrupt:
        show(interrupt, program)
        _end(found, run, "exception KeyboardInterrupt")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        show(error, program)
        code, reason = 1, f"exception {type(error).__name__}"
    _end(found, run, reason)
    sys.exit(code)


def _discover(run: Path, max_norm: float | None, steps: int | None, tensorboard: bool) -> Discovery:
    from gradwatch.script.discover import Discovery

    return Discovery(run, max_norm, steps, tensorboard)


def become_main(program: Program) -> ModuleType:
    """Make the module `__main__` that the program will be, with its `sys.argv` and `sys.path`."""
    main = ModuleType("__main__")
    main.__file__ = str(program.path)
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    if program.spec is not None:
        main.__spec__ = program.spec
        main.__package__ = program.spec.name.rpartition(".")[0]
        main.__loader__ = program.spec.loader
    sys.modules["__main__"] = main
    sys.argv = list(program.argv)
    # Python puts the script's folder there, and for -m the folder it was started in.
    sys.path[0] = str(program.path.parent.resolve()) if program.spec is None else str(Path.cwd())
    return main


def code_of(program: Program) -> CodeType:
    """Compile it, under the path that its tracebacks show."""
    return compile(program.path.read_bytes(), str(program.path), "exec", dont_inherit=True)


def show(error: BaseException, program: Program) -> None:
    """Print the traceback of the script's own exception, without our frames above it."""
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
    """What the script called went through our taps; that is no business of its reader."""
    if traceback is None:
        return None
    following = _without_our_frames(traceback.tb_next)
    if Path(traceback.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1]):
        return following
    return TracebackType(following, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


def _end(found: Sequence[Discovery], run: Path, reason: str) -> None:
    """Close the run and say on stderr what was recorded; the script's own output is on stdout and stays."""
    steps = found[0].close(reason) if found else 0
    if os.environ.get("RANK", "0") != "0":
        return  # under `torchrun` rank 0 writes the run
    if steps:
        message = f"recorded {steps} steps; gradwatch report {run}"
    else:
        message = f"nothing was recorded, for {why_nothing(found)}"
    print(f"gradwatch: {message}", file=sys.stderr)  # noqa: T201


def why_nothing(found: Sequence[Discovery]) -> str:
    """The reason why a script left no step to record."""
    if not found:
        return "the script did not import torch"
    if found[0].failed:
        return "the run could not be written"
    if not found[0].backwards:
        return "the script imported torch and called no backward"
    if not found[0].optimizers_seen:
        return "there was no optimizer and no gradient was clipped"
    return "no optimizer made a step"


def after_import(name: str, call: Callable[[], object]) -> None:
    """Call once the module has been imported, by whomever; at once if it has been."""
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _AfterImport(name, call))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself; makes the loader of one module call back when it is done."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self._name, self._call = name, call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._call_when_loaded(spec.loader)
        return spec

    def _call_when_loaded(self, loader: importlib.abc.Loader) -> None:
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self._call()

        loader.exec_module = exec_module  # type: ignore[method-assign]
