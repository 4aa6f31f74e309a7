"""Run a script until it calls the model of a capture, and end it there: `gradwatch replay`.

The script has the side effects that it always has until then. A recording that it opens goes into a temporary
folder, because the run that is replayed is only read.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gradwatch.errors import CannotReplay
from gradwatch.script.imports import replace_after_import
from gradwatch.script.launch import Program, run_until, show

if TYPE_CHECKING:
    from torch import nn

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of each parameter of a module, by name."""

MOST_TIMES = 3
"""How often a script that catches everything is interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A model as a script called it."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Enough(BaseException):
    """Ends the script from within a call of its model."""


class _Finder:
    """Listens to the calls of all modules."""

    def __init__(self, wanted: Sequence[Shapes]) -> None:
        self._wanted = [dict(shapes) for shapes in wanted]
        self._checked: dict[int, tuple[nn.Module, bool]] = {}  # with the module, so that its id stays its own
        self._times = 0
        self.called: Called | None = None
        self.is_found = False
        self.is_over = False

    def listening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make a method of `nn.Module` out of this one that is heard before."""

        @functools.wraps(original)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not self.is_over and self._is_wanted(module):
                self._take(module, args, kwargs)
            return original(module, *args, **kwargs)

        return call

    def _is_wanted(self, module: nn.Module) -> bool:
        known = self._checked.get(id(module))
        if known is None:
            known = self._checked[id(module)] = (module, shapes_of(module) in self._wanted)
        return known[1]

    def _take(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """End the script at the first call that records gradients; one that does not is kept in case none comes."""
        import torch

        if self.called is None or (torch.is_grad_enabled() and not self.is_found):
            self.called = Called(model=module, args=args, kwargs=kwargs)
        if torch.is_grad_enabled():
            self.is_found = True
            self._times += 1
            if self._times <= MOST_TIMES:
                raise _Enough


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by name."""
    return {name: tuple(one.shape) for name, one in module.named_parameters()}


def find_model(program: Program, wanted: Sequence[Shapes], *, quiet: bool = False) -> Called:
    """Run the program in this process until it calls a module with parameters of these names and shapes.

    Args:
        program: from `launch.prepare`.
        wanted: the shapes of each module that was captured.
        quiet: what the script prints goes to stderr.

    Raises:
        CannotReplay: it ends or fails without a call of such a model.
    """
    finder = _Finder(wanted)
    stop = replace_after_import("torch", "nn.Module.__call__", finder.listening)
    output = contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext()
    failed = ""
    with tempfile.TemporaryDirectory(prefix="gradwatch-") as folder, _recordings_in(Path(folder)), output:
        try:
            error = run_until(program, _Enough)
        finally:
            stop()
            finder.is_over = True  # what `torch.compile` made meanwhile calls the method that was there
        if error is not None:
            failed = f" It ended with {type(error).__name__}."
            if not finder.is_found:
                show(error, program)
    if finder.called is None:
        raise CannotReplay(
            f"{program.argv[0]!r} never called a model whose parameters have the captured names and shapes"
            f" ({' or '.join(str(len(shapes)) for shapes in wanted)} parameters).{failed}"
        )
    return finder.called


def assembled(parts: Mapping[str, Shapes]) -> nn.Module:
    """A module that holds modules of these shapes, which the script has made, under these names.

    Raises:
        CannotReplay: the script has made none, or several, of some shapes.
    """
    from torch import nn

    # By the type alone: `isinstance` asks proxies for their class, and they may answer with work.
    made = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
    model = nn.Module()
    for name, shapes in parts.items():
        fitting = [one for one in made if shapes_of(one) == shapes]
        if len(fitting) != 1:
            raise CannotReplay(f"The script has made {len(fitting)} modules with the parameters of {name!r}.")
        *folders, last = name.split(".")
        at = model
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, nn.Module())
            at = at.get_submodule(folder)
        at.add_module(last, fitting[0])
    return model


@contextmanager
def _recordings_in(folder: Path) -> Iterator[None]:
    """What the script attaches records there, and is closed at the end."""
    opened: list[Any] = []

    def redirected(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def open_watch(trained: Any, run: Path, *args: Any, **kwargs: Any) -> Any:
            watch = original(trained, folder / str(len(opened)), *args, **kwargs)
            opened.append(watch)
            return watch

        return open_watch

    stop = replace_after_import("gradwatch.recording.attach", "open_watch", redirected)
    try:
        yield
    finally:
        for watch in opened:
            with contextlib.suppress(Exception):  # a recording that fails is no reason not to replay
                watch.close("exit")
        stop()
