"""The listeners of a tap: it is installed for the first and removed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Listener = TypeVar("Listener")


_registries: list[HookRegistry[Any]] = []


def leave_everywhere(listener: object) -> None:
    """Tell a listener nothing more, also where an interrupt kept it from being told how to leave."""
    for registry in _registries:
        while listener in registry:
            registry.leave(listener)


class HookRegistry(Generic[Listener]):
    """The listeners of one tap.

    >>> taps = []
    >>> listeners = HookRegistry(lambda: taps.append("in") or [lambda: taps.append("out")])
    >>> stop, stop_other = listeners.add("first"), listeners.add("second")
    >>> list(listeners), taps
    (['first', 'second'], ['in'])
    >>> stop(), stop_other(), stop_other(), taps
    (None, None, None, ['in', 'out'])
    """

    def __init__(self, put_in: Callable[[], Iterable[Callable[[], None]]]) -> None:
        """``put_in`` gives what takes a part of the tap out, puts that part in, and goes on to the next.

        In this order no part stays in where an interrupt (Ctrl-C) comes between the two.
        """
        self._put_in = put_in
        self._take_out: list[Callable[[], None]] = []
        self._present: list[Listener] = []
        self._lock = threading.Lock()
        _registries.append(self)

    def __iter__(self) -> Iterator[Listener]:
        """Those that listen now; one that leaves meanwhile is still told."""
        return iter(list(self._present))

    def tell(self, call: Callable[[Listener], object]) -> list[Listener]:
        """Call with each, those that join meanwhile included; return who was told.

        >>> listeners = HookRegistry(lambda: [])
        >>> _ = listeners.add("first")
        >>> listeners.tell(lambda one: listeners.add("second") if one == "first" else None)
        ['first', 'second']
        """
        told: list[Listener] = []
        while new := [one for one in self._present if all(one is not other for other in told)]:
            for one in new:
                call(one)
            told += new
        return told

    def add(self, listener: Listener) -> Callable[[], None]:
        """Let one more listen; return what ends it."""
        with self._lock:
            try:
                if not self._present:
                    self._take_out_if_unheard()  # what an interrupt has left in
                    self._collect(self._put_in())
                self._present.append(listener)
            except BaseException:
                self._take_out_if_unheard()
                raise

        return lambda: self.leave(listener)

    def leave(self, listener: Listener) -> None:
        """Tell a listener nothing more, once for each time that it was added."""
        with self._lock:
            if listener in self._present:
                self._present.remove(listener)
            self._take_out_if_unheard()

    def _collect(self, parts: Iterable[Callable[[], None]]) -> None:
        for take_out in parts:
            self._take_out.append(take_out)  # the part is put in as the next one is asked for

    def _take_out_if_unheard(self) -> None:
        while not self._present and self._take_out:
            self._take_out[-1]()
            self._take_out.pop()

    def put_in_more(self, put_in: Callable[[], Iterable[Callable[[], None]]]) -> None:
        """Add to the tap while anyone listens; it is taken out with it."""
        with self._lock:
            if self._present:
                self._collect(put_in())
