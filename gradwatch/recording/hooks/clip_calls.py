"""Calls of PyTorch's clipping functions, seen before they clip.

These are `torch.nn.utils.clip_grad_norm_`, `clip_grad_value_`, and `clip_grads_with_norm_`, which clips by
a norm that it is given and which `clip_grad_norm_` calls as well.

A script that says ``from torch.nn.utils import clip_grad_norm_`` before gradwatch is attached
holds the function itself, so replacing the name in torch's module would miss it. These functions
are thin wrappers (they enter ``torch.no_grad``) around the function that works, which they hold
in a closure: that is where the tap goes in, and every reference sees it. It is taken out again
when the last listener leaves.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CellType, GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

from gradwatch.clip import calls
from gradwatch.clip.calls import Clipping
from gradwatch.measure import Measurement, drop_reading, is_reading
from gradwatch.recording.hooks.registry import HookRegistry

if TYPE_CHECKING:
    from gradwatch.clip import Policy
    from gradwatch.clip.drop_in import ClipListed, NonFinite


class TapError(RuntimeError):
    """PyTorch builds its clipping functions in a way that gradwatch does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCall:
    """One call of a clipping function, with what it was given."""

    parameters: list[Tensor]
    max_norm: float | Tensor | None = None
    norm_type: float = 2.0
    clip_value: float | None = None
    policy: str | None = None  # of ours, called in the loop
    spreads_nonfinite: bool = True  # a norm that is not finite reaches every gradient
    offered: list[Measurement] = field(default_factory=list)  # by listeners that measured just these gradients
    made: list[Clipping] = field(default_factory=list)  # by a policy of ours that the loop called


class _Unheard:
    """Clip calls that the compiler has taken into its graph: it writes this attribute each time the graph runs."""

    compiled = False


_unheard = _Unheard()


def take_compiled_clip() -> bool:
    """Whether a compiled function has clipped, which no listener was told of, since this was asked last."""
    found, _unheard.compiled = _unheard.compiled, False
    return found


_overriding: list[float] = []


def override_max_norm(max_norm: float) -> Callable[[], None]:
    """Let every clip call by norm have this threshold, while somebody listens; return what ends it."""
    _overriding.append(max_norm)
    return lambda: _overriding.remove(max_norm)


def _overridden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments after the parameters, the threshold first."""
    if not _overriding:
        return args, kwargs
    return ((_overriding[-1], *args[1:]), kwargs) if args else (args, kwargs | {"max_norm": _overriding[-1]})


class ClipListener(Protocol):
    def before_norm(self, call: ClipCall) -> None:
        """PyTorch is about to read the gradients for its norm.

        `before_clip` follows at once, or if `gradwatch.measure.begin_reading` was called, when the norm is there.
        """
        ...

    def before_clip(self, call: ClipCall) -> None: ...
    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        """Not called where clipping raised; `clip_failed` is."""
        ...

    def clip_failed(self, call: ClipCall) -> None: ...


def listen_to_clip_calls(listener: ClipListener) -> Callable[[], None]:
    """Tell the listener of every clip call of this process; return what ends it.

    Raises:
        TapError: this version of torch can't be listened to.
    """
    stop = _listeners.add(listener)
    tap_libraries()
    return stop


def _put_in() -> Iterator[Callable[[], None]]:
    by_norm = _cell_of_the_working_function(clip_grad.clip_grad_norm_)
    by_value = _cell_of_the_working_function(clip_grad.clip_grad_value_)
    yield from _tap(by_norm, _norm_call)
    yield from _tap(by_value, _value_call)
    yield from _tap_ours()
    yield from _tap_policies()
    yield from _tap_pair()


_listeners: HookRegistry[ClipListener] = HookRegistry(_put_in)


def _norm_call(parameters: list[Tensor], max_norm: Any, norm_type: float = 2.0, *_: object, **__: object) -> ClipCall:
    return ClipCall(parameters=parameters, max_norm=_threshold(max_norm), norm_type=float(norm_type))


def _threshold(max_norm: Any) -> float | Tensor:
    """The threshold as PyTorch takes it, which makes a float of whatever it is given."""
    return max_norm if isinstance(max_norm, Tensor) else float(max_norm)


def _value_call(parameters: list[Tensor], clip_value: Any, *_: object, **__: object) -> ClipCall:
    return ClipCall(parameters=parameters, clip_value=float(clip_value))


class _Calls(threading.local):
    """The clip calls of this thread."""

    depth = 0  # of calls within each other, of which the outermost is told of
    awaiting_norm: _Announced | None = None  # the call of which is told once PyTorch has its norm
    norm_type = 2.0  # of the last `get_total_norm`


_calls = _Calls()


class _Announced:
    """A call that the listeners are told of before it clips, once."""

    def __init__(self, call: ClipCall) -> None:
        self.call = call
        self._present: list[ClipListener] | None = None

    def tell(self) -> list[ClipListener]:
        """Tell of it, and return who was told."""
        if self._present is None:
            self._present = _listeners.tell(lambda listener: listener.before_clip(self.call))
        return self._present


def _told(call: ClipCall, clip: Callable[[], Any], total_norm: Tensor | None = None) -> Any:
    """Clip, and tell the listeners before and after, or that it failed.

    They are told of ``total_norm``, or else of what the call returns.
    """
    announced = _Announced(call)
    announced.tell()
    return _clip(announced, clip, total_norm)


def _told_at_norm(call: ClipCall, clip: Callable[[], Any]) -> Any:
    """The same of a call for which PyTorch computes the norm by `get_total_norm`, before it changes a gradient.

    What a listener begins to read then is read while PyTorch reads.
    """
    announced = _Announced(call)
    try:
        _drop_reading()  # what an interrupt (Ctrl-C) of an earlier call has left
        _listeners.tell(lambda listener: listener.before_norm(call))
        if _is_reading():
            _calls.awaiting_norm = announced
        else:
            announced.tell()
        return _clip(announced, clip)
    finally:
        _calls.awaiting_norm = None
        _drop_reading()


def _drop_reading() -> None:
    """End what a listener has begun to read; a fault of ours must not reach the script."""
    with contextlib.suppress(Exception):
        drop_reading()


def _is_reading() -> bool:
    """Whether a listener has begun to read; a fault of ours must not reach the script."""
    try:
        return is_reading()
    except Exception:
        return False


def _clip(announced: _Announced, clip: Callable[[], Any], total_norm: Tensor | None = None) -> Any:
    _calls.depth += 1
    try:
        result = clip()
    except BaseException:
        for listener in announced.tell():
            listener.clip_failed(announced.call)
        raise
    finally:
        _calls.depth -= 1
    for listener in announced.tell():
        listener.after_clip(announced.call, result if total_norm is None else total_norm)
    return result


def _tap_pair() -> Iterator[Callable[[], None]]:
    """`get_total_norm` and `clip_grads_with_norm_`, where this PyTorch has them (since 2.6)."""
    measures: Any = getattr(clip_grad, "_get_total_norm", None)
    clips: Any = getattr(clip_grad, "_clip_grads_with_norm_", None)
    if measures is None or clips is None:
        return
    norm_cell, clip_cell = _cell_of_the_working_function(measures), _cell_of_the_working_function(clips)
    measure, clip = norm_cell.cell_contents, clip_cell.cell_contents

    @functools.wraps(measure)
    def measured(tensors: Any, norm_type: Any = 2.0, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return measure(tensors, norm_type, *args, **kwargs)  # a compiled function may not touch what a thread keeps
        awaiting = _at_norm(norm_type)
        try:
            return measure(tensors, norm_type, *args, **kwargs)
        finally:
            if awaiting is not None:
                awaiting.tell()

    @functools.wraps(clip)
    def clipped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            _unheard.compiled = True
            return clip(parameters, *args, **kwargs)
        if _calls.depth:
            return clip(parameters, *args, **kwargs)
        listed, parameters = _both(parameters)
        args, kwargs = _overridden(args, kwargs)
        try:
            call, norm = _call_with_norm(listed, *args, **kwargs)
        except Exception:
            return clip(parameters, *args, **kwargs)  # to raise what torch raises
        return _told(call, lambda: clip(parameters, *args, **kwargs), norm)

    def restore() -> None:
        norm_cell.cell_contents, clip_cell.cell_contents = measure, clip

    yield restore
    norm_cell.cell_contents, clip_cell.cell_contents = measured, clipped


def _at_norm(norm_type: Any) -> _Announced | None:
    """Remember the order of a norm that the script asks for; the call that waits for the norm, which no other takes."""
    if not _calls.depth:
        _calls.norm_type = norm_type
    awaiting, _calls.awaiting_norm = _calls.awaiting_norm, None
    return awaiting


def _call_with_norm(
    parameters: list[Tensor], max_norm: Any, total_norm: Any, foreach: bool | None = None
) -> tuple[ClipCall, Tensor]:
    """The call, and the norm that it was given; of which order that is, the call before tells."""
    call = ClipCall(parameters=parameters, max_norm=_threshold(max_norm), norm_type=float(_calls.norm_type))
    return call, torch.as_tensor(total_norm)


def _tap(cell: CellType, describe: Callable[..., ClipCall]) -> Iterator[Callable[[], None]]:
    """Put a tap between a clipping function and its callers."""
    original = cell.cell_contents
    has_norm_apart = describe is _norm_call and "_get_total_norm" in original.__code__.co_names

    @functools.wraps(original)
    def tapped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            _unheard.compiled = True
            return original(parameters, *args, **kwargs)
        listed, parameters = _both(parameters)
        if describe is _norm_call:
            args, kwargs = _overridden(args, kwargs)
        try:
            call = describe(listed, *args, **kwargs)
        except Exception:
            return original(parameters, *args, **kwargs)  # to raise what torch raises
        told = _told_at_norm if has_norm_apart and not _calls.depth else _told
        return told(call, lambda: original(parameters, *args, **kwargs))

    def restore() -> None:
        cell.cell_contents = original

    yield restore
    cell.cell_contents = tapped


def _tap_ours() -> Iterator[Callable[[], None]]:
    """`gradwatch.clip.clip_grad_norm_` takes what a listener has measured instead of reading again."""
    original = calls.by_norm

    def tapped(
        clip: ClipListed, parameters: list[Tensor], max_norm: float, norm_type: float, nonfinite: NonFinite
    ) -> Tensor:
        max_norm = _overriding[-1] if _overriding else max_norm
        call = ClipCall(parameters=parameters, max_norm=max_norm, norm_type=norm_type, spreads_nonfinite=False)

        def lent() -> Tensor:
            return clip(parameters, max_norm, norm_type, nonfinite, next(iter(call.offered), None))

        norm: Tensor = _told(call, lent)
        return norm

    def restore() -> None:
        calls.by_norm = original

    yield restore
    calls.by_norm = tapped


_CLIPPING_OF_LIBRARIES: tuple[tuple[str, str | None, Callable[[Any], list[Tensor]] | None], ...] = (
    # Clips by the norm over all ranks without torch.nn.utils.
    ("torch.distributed.fsdp", "FullyShardedDataParallel", lambda model: list(model.parameters())),
    # The function with which the engine clips float32 gradients that ZeRO does not partition.
    ("deepspeed.runtime.engine", None, None),
)
"""Where libraries that a script may import after gradwatch have a ``clip_grad_norm_`` of their own: a module, the class
in it, and how to get the parameters from an instance of that class."""


def tap_libraries() -> None:
    """See the clipping functions of libraries that the script has imported since the last call."""
    _listeners.put_in_more(_tap_libraries)


def _tap_libraries() -> Iterator[Callable[[], None]]:
    for module, class_name, parameters_of in _CLIPPING_OF_LIBRARIES:
        owner = sys.modules.get(module)
        if class_name is not None:
            owner = getattr(owner, class_name, None)
        clip = getattr(owner, "clip_grad_norm_", None)
        if clip is not None and not hasattr(clip, "_is_gradwatch_tap"):
            yield from _tap_library(owner, parameters_of)


def _tap_library(owner: Any, parameters_of: Callable[[Any], list[Tensor]] | None) -> Iterator[Callable[[], None]]:
    original = owner.clip_grad_norm_

    @functools.wraps(original)
    def tapped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        """``parameters`` are a model where the original is its method."""
        listed, parameters = _both(parameters) if parameters_of is None else (parameters_of(parameters), parameters)
        args, kwargs = _overridden(args, kwargs)
        try:
            call = _norm_call(listed, *args, **kwargs)
        except Exception:
            return original(parameters, *args, **kwargs)  # to raise what it raises
        return _told(call, lambda: original(parameters, *args, **kwargs))

    def restore() -> None:
        owner.clip_grad_norm_ = original

    tapped._is_gradwatch_tap = True  # type: ignore[attr-defined]
    yield restore
    owner.clip_grad_norm_ = tapped


def _tap_policies() -> Iterator[Callable[[], None]]:
    """A policy called in a loop says itself what it did."""
    original = calls.by_policy

    def tapped(
        clip: Callable[[Policy, list[Tensor]], tuple[Tensor, Clipping]], policy: Policy, parameters: list[Tensor]
    ) -> tuple[Tensor, Clipping]:
        call = ClipCall(parameters=parameters, policy=repr(policy), spreads_nonfinite=False)

        def noted() -> Tensor:
            norm, clipping = clip(policy, parameters)
            call.made.append(clipping)
            return norm

        return _told(call, noted), call.made[0]

    def restore() -> None:
        calls.by_policy = original

    yield restore
    calls.by_policy = tapped


def _cell_of_the_working_function(public: Callable[..., Any]) -> CellType:
    inner = getattr(public, "__wrapped__", None)
    cells: tuple[CellType, ...] = getattr(public, "__closure__", None) or ()
    for cell in cells:
        if cell.cell_contents is inner:
            return cell
    raise TapError(f"torch {torch.__version__} builds {public.__name__} in a way that gradwatch does not know")


def _both(parameters: Any) -> tuple[list[Tensor], Any]:
    """The parameters as a list for us, and as torch takes what it was given, which is listed only once."""
    if isinstance(parameters, Tensor):
        return [parameters], parameters
    if not isinstance(parameters, Iterator):
        try:
            listed = list(parameters)
        except TypeError:
            return [], parameters  # torch raises
        return listed, list(listed)
    listed = list(parameters)
    if not listed and isinstance(parameters, GeneratorType):
        return listed, (parameter for parameter in listed)  # PyTorch warns of a generator that gives nothing
    return listed, iter(listed)
