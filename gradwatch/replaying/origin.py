"""Where a fault begins: the first operation with a bad result from which the bad gradients come.

A result is bad if it is NaN or infinite where the control's is not, or far larger than the control's. Operations
that lead to a bad gradient are followed back to those whose inputs are all good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gradwatch.analysis.replays.result import Origin
from gradwatch.replaying.trace import Leaf, Operation, Trace

FAR, HIGH = 30.0, 8.0
"""Times the control's magnitude: far beyond it; and already high, if what comes of it is far beyond."""

Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A healthy replay to compare with.

    Attributes:
        trace: its operations.
        name: what it is, in words.
        has_loss: whether its output gradients are its own, so that they may be compared.
    """

    trace: Trace
    name: str
    has_loss: bool = True


def find_origin(trace: Trace, control: Control | None, *, nonfinite: bool) -> Origin | None:
    """The first operation, input or weight from which the bad gradients come; None if there is none to be found.

    Args:
        trace: of the bad step.
        control: of a healthy one; without it only what is not finite can be found.
        nonfinite: whether the step's gradients are not finite.
    """
    usual = _usual(trace, control)
    unknown = set() if nonfinite else {index for index, magnitude in usual.items() if magnitude is None}
    far, bad = (_bad(trace, usual, nonfinite, times) for times in (FAR, HIGH))
    if control is None:
        bad -= {at for at, one in enumerate(trace.operations) if one.is_written}
    reached = _reached(trace, _reached(trace, trace.ends, bad | unknown) & far, bad | unknown)
    roots = [at for at in reached & bad if not _has_bad_before(trace, at, bad, unknown)]
    if not roots:
        return None
    first = min(roots, key=lambda at: at if at >= 0 else _first_use(trace, at, reached))
    return _origin(trace, first, usual[first], control)


def _usual(trace: Trace, control: Control | None) -> dict[int, float | None]:
    """The control's magnitude of each operation and leaf; None where it has none to compare with."""
    magnitudes = {} if control is None else _magnitudes(control.trace)
    usual = {index: magnitudes.get(key) for index, key in _keys(trace).items()}
    if control is not None and not control.has_loss:
        usual |= {index: None for index, leaf in trace.leaves.items() if leaf.kind == "loss"}
    return usual


def _bad(trace: Trace, usual: Mapping[int, float | None], nonfinite: bool, times: float) -> set[int]:
    return {index for index, magnitude in _every_magnitude(trace) if _is_bad(magnitude, usual[index], nonfinite, times)}


def _is_bad(magnitude: float, usual: float | None, nonfinite: bool, times: float) -> bool:
    if nonfinite:
        return _level(magnitude) > (0 if usual is None else _level(usual))
    if usual is None or not math.isfinite(usual):
        return False
    return usual > 0 and not magnitude <= times * usual


def _level(magnitude: float) -> int:
    return 2 if math.isnan(magnitude) else 1 if math.isinf(magnitude) else 0


def _keys(trace: Trace) -> dict[int, Key]:
    """What each operation and leaf is called: the same in a trace of another batch."""
    counts: dict[Key, int] = {}
    keys: dict[int, Key] = {}

    def number(index: int, name: Key) -> None:
        keys[index] = (*name, counts.get(name, 0))
        counts[name] = counts.get(name, 0) + 1

    for at, one in enumerate(trace.operations):
        number(at, (one.phase, one.module, one.node, one.name))
    for index in sorted(trace.leaves, reverse=True):
        number(index, (trace.leaves[index].kind, trace.leaves[index].name))
    return keys


def _magnitudes(trace: Trace) -> Mapping[Key, float]:
    return {key: _get(trace, index).magnitude for index, key in _keys(trace).items()}


def _get(trace: Trace, index: int) -> Operation | Leaf:
    return trace.operations[index] if index >= 0 else trace.leaves[index]


def _every_magnitude(trace: Trace) -> Iterable[tuple[int, float]]:
    yield from ((at, one.magnitude) for at, one in enumerate(trace.operations))
    yield from ((index, leaf.magnitude) for index, leaf in trace.leaves.items())


def _parents(trace: Trace, index: int) -> tuple[int, ...]:
    return trace.operations[index].parents if index >= 0 else ()


def _reached(trace: Trace, begin: Iterable[int], among: set[int]) -> set[int]:
    """Where ``begin`` came from, going back over members of ``among`` alone."""
    waiting = [at for at in begin if at in among]
    reached = set(waiting)
    while waiting:
        for parent in _parents(trace, waiting.pop()):
            if parent in among and parent not in reached:
                reached.add(parent)
                waiting.append(parent)
    return reached


def _has_bad_before(trace: Trace, index: int, bad: set[int], unknown: set[int]) -> bool:
    """Whether it was made of something bad, at once or by way of what can't be compared."""
    waiting, seen = list(_parents(trace, index)), set[int]()
    while waiting:
        at = waiting.pop()
        if at in bad:
            return True
        if at in unknown and at not in seen:
            seen.add(at)
            waiting += _parents(trace, at)
    return False


def _first_use(trace: Trace, leaf: int, reached: set[int]) -> float:
    """Just before the first operation that reads the leaf."""
    return min((at for at in reached if at >= 0 and leaf in trace.operations[at].parents), default=math.inf) - 0.5


def _origin(trace: Trace, index: int, usual: float | None, control: Control | None) -> Origin:
    found = _get(trace, index)
    name = None if control is None or usual is None else control.name
    known = usual if name is not None else None
    if isinstance(found, Leaf):
        return _origin_in(found, known, name)
    return Origin(
        direction=found.phase,
        module=found.module,
        class_name=None if found.module is None else trace.classes.get(found.module),
        operation=found.node if found.phase == "backward" and found.node else found.name,
        file=None if found.line is None else found.line.file,
        line=None if found.line is None else found.line.number,
        code=None if found.line is None else found.line.code or None,
        observed=found.magnitude,
        control=known,
        control_is=name,
    )


def _origin_in(leaf: Leaf, known: float | None, control: str | None) -> Origin:
    module = None if leaf.kind == "loss" else leaf.name
    return Origin(direction=leaf.kind, module=module, observed=leaf.magnitude, control=known, control_is=control)
