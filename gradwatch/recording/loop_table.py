"""The loops of one recording: the optimizer of each, and its lifetime."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator

from torch import nn
from torch.optim import Optimizer

from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.loops import Loop


def this_thread() -> int | None:
    """The identity of the calling thread, which `threading.enumerate` lists from here on: C++ may have started it."""
    return threading.current_thread().ident


def is_of_this_thread(thread: int | None) -> bool:
    """Whether a thread is this one, or has ended."""
    return thread == threading.get_ident() or all(thread != one.ident for one in threading.enumerate())


class LoopTable:
    """One loop for each optimizer of the script.

    Attributes:
        names: the names of all optimizers, including those that the script has let go of.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._loops: list[Loop] = []
        self._by_optimizer: dict[int, Loop] = {}
        self._lives: dict[str, weakref.ref[Optimizer]] = {}
        self._steps_gone = 0  # the most steps of an optimizer that is gone

    def __iter__(self) -> Iterator[Loop]:
        return iter(self._loops)

    def __len__(self) -> int:
        return len(self._loops)

    def add(self, loop: Loop) -> None:
        """Take in a loop that this thread trains, until another one makes a step of it."""
        loop.thread = this_thread()
        self._loops.append(loop)
        if loop.tracker.name not in self.names:  # one that is gone may have had it
            self.names.append(loop.tracker.name)
        for optimizer in loop.optimizers:
            self._by_optimizer[id(optimizer)] = loop

    def of(self, optimizer: Optimizer) -> Loop | None:
        """Return the loop of an optimizer; None for one that is not recorded."""
        return self._by_optimizer.get(id(optimizer))

    def clipped_by(self, call: ClipCall) -> list[Loop]:
        """Return the loops that have a parameter of this call."""
        clipped = call.parameters
        return [loop for loop in self._loops if not loop.tracker.parameters.ids.isdisjoint(map(id, clipped))]

    def of_this_thread(self) -> list[Loop]:
        """Return the loops whose gradients no other thread can be writing; that may happen without Python's lock."""
        return [loop for loop in self._loops if is_of_this_thread(loop.thread)]

    def named(self, name: str | None) -> list[Loop]:
        """Return the loop of this name, or all loops for None."""
        return [loop for loop in self._loops if name in (None, loop.tracker.name)]

    def models(self) -> Iterator[nn.Module]:
        """Yield the model of each loop that no other thread trains, if it is still alive."""
        models = (loop.tracker.parameters.model for loop in self.of_this_thread())
        return (model for model in models if model is not None)

    @property
    def furthest_step(self) -> int:
        """The number of the next step of the optimizer that made the most steps."""
        return max([self._steps_gone, *(loop.tracker.step for loop in self._loops)])

    # ------------------------------------------------------------------------------ how long a loop lives

    def live_with(self, loop: Loop, optimizer: Optimizer, gone: Callable[[Loop], None]) -> object:
        """Call ``gone`` when the optimizer goes; return the object that its hooks must keep alive until then.

        A search or a cross-validation makes many models one after the other, and only one of them at a time
        may stay in memory. A strong reference from here to the optimizer would keep them all.
        """
        name = loop.tracker.name
        if loop.steps_within_backward or name in self._lives:
            return None
        self._lives[name] = weakref.ref(optimizer, lambda _: gone(loop))
        return loop.tracker.parameters.hand_over()

    def let_go(self, loop: Loop) -> None:
        """End the loop of an optimizer that is gone, and keep only its name and its number of steps."""
        self._loops = [one for one in self._loops if one is not loop]  # a caller may be iterating over the old list
        self._by_optimizer = {key: one for key, one in self._by_optimizer.items() if one is not loop}
        self._lives.pop(loop.tracker.name, None)
        loop.abandon()
        loop.tracker.release()
        self._steps_gone = max(self._steps_gone, loop.tracker.step)

    # --------------------------------------------------------------------------------------- all at once

    def release(self) -> None:
        """Hand on every step that is held back."""
        for loop in self._loops:
            loop.tracker.release()

    def abandon(self) -> None:
        """End all loops: a step that was measured and not made becomes an attempt, unless another thread is at it."""
        for loop in self._loops:
            if is_of_this_thread(loop.thread):
                loop.abandon()
            loop.tracker.release()

    def record_nothing(self) -> bool:
        """Go on without recording; return whether a loop still clips or skips."""
        still = [loop.record_nothing() for loop in self._loops]
        return any(still)
