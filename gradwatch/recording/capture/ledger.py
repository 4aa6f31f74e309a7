"""Which backward passes made the gradients that one optimizer has now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.recording.capture.forwards import ForwardTap
from gradwatch.recording.capture.passes import HeldBackward
from gradwatch.recording.capture.rule import CaptureRule
from gradwatch.recording.capture.team import Parallel
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.tracker import StepTracker


class Ledger:
    """The backward passes since the gradients of one optimizer were none or zero.

    Attributes:
        tracker: the steps of the optimizer.
        tap: hears the forwards of its model.
        rule: judges its steps.
        passes: each call of backward that reached a gradient, with the forwards it consumed.
        faults: why a replay of them would not be exact.
        parallel: how several processes train the model; None if one does, or in a way that is not known.
        judged: how many steps were judged.
    """

    def __init__(self, tracker: StepTracker, tap: ForwardTap, max_bytes: int, parallel: Parallel | None = None) -> None:
        self.tracker, self.tap = tracker, tap
        self.parallel = parallel
        self.judged = 0
        self.rule = CaptureRule()
        self.passes: list[HeldBackward] = []
        self.faults: list[str] = []
        self._threshold: float | Tensor | None = None
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._is_stepped = False
        self._backwards = 0

    @property
    def moment(self) -> str:
        """A name of the step that is judged; the same in every process."""
        return f"{self.tracker.name}/{self.judged}"

    @property
    def max_norm(self) -> float | None:
        """The clipping threshold of the last step, which is the one in force; None if none is known."""
        return None if self._threshold is None else float(self._threshold)

    def before_backward(self) -> None:
        self.tap.before_backward()
        self._backwards = self.tracker.gradients.backwards
        if self.tracker.gradients.first() is None:
            self.clear()
        elif self._is_stepped:
            self.clear()
            self.faults.append(
                "gradients were not set to zero after the step before, and it is not known how they were"
            )

    def after_backward(self, made: HeldBackward) -> None:
        """Take a backward, if it reached these gradients; `StepTracker.gradients` has heard of it before."""
        if self.tracker.gradients.backwards == self._backwards:
            return
        own = HeldBackward(reached={key: one for key, one in made.reached.items() if one[0].tap is self.tap})
        if not own.reached:
            self.faults.append("a backward reached the gradients through no output of the model that was seen")
            self.tap.look_for_compiled()
            return
        self.tap.reached(forward for forward, _ in own.reached.values())
        self._held_bytes += own.held_bytes
        if self._held_bytes > self._max_bytes:
            self.passes.clear()
            self.faults.append(f"inputs and output gradients have more than max_held_bytes={self._max_bytes}")
        else:
            self.passes.append(own)

    def zeroed(self, ids: set[int]) -> None:
        """The gradients of these parameters were set to zero in place."""
        if self.tracker.parameters.ids <= ids:
            self.clear()

    def before_step(self) -> None:
        """The gradients are clipped, unless a closure is yet to make them."""
        self._note_threshold(self.tracker.pending)

    def after_step(self) -> None:
        """The gradients are consumed: hold nothing more of them."""
        self._note_threshold(self.tracker.held)
        self.clear()
        self._is_stepped = True

    def _note_threshold(self, step: PendingStep | None) -> None:
        if step is not None and step.clippings:
            self._threshold = step.clippings[-1].max_norm

    def clear(self) -> None:
        self.passes, self.faults, self._held_bytes, self._is_stepped = [], [], 0, False


class Ledgers:
    """The ledgers of one recording, by tracker and by optimizer, and one tap for each of their models.

    Args:
        make_tap: begins to hear the forwards of a model.
        max_bytes: what a ledger may hold.
    """

    def __init__(self, make_tap: Callable[[nn.Module], ForwardTap], max_bytes: int) -> None:
        self._make_tap, self._max_bytes = make_tap, max_bytes
        self._by_tracker: dict[int, Ledger] = {}
        self._by_optimizer: dict[int, Ledger] = {}
        self._taps: dict[int, ForwardTap] = {}

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._by_tracker.values())

    def add(
        self, tracker: StepTracker, optimizers: Iterable[Optimizer], model: nn.Module, parallel: Parallel | None
    ) -> None:
        """Begin a ledger for the steps of these optimizers, which have one tracker."""
        if id(model) not in self._taps:
            self._taps[id(model)] = self._make_tap(model)
        ledger = self._by_tracker[id(tracker)] = Ledger(tracker, self._taps[id(model)], self._max_bytes, parallel)
        self._by_optimizer |= {id(optimizer): ledger for optimizer in optimizers}

    def of_tracker(self, tracker: StepTracker) -> Ledger | None:
        """Return its ledger; None if its steps are not captured."""
        return self._by_tracker.get(id(tracker))

    def of(self, optimizer: Optimizer) -> Ledger | None:
        """Return the ledger of an optimizer; None if its steps are not captured."""
        return self._by_optimizer.get(id(optimizer))

    def remove(self, ledger: Ledger) -> None:
        """Forget a ledger, and hear its model no more if no other ledger has that."""
        del self._by_tracker[id(ledger.tracker)]
        self._by_optimizer = {key: one for key, one in self._by_optimizer.items() if one is not ledger}
        if all(one.tap is not ledger.tap for one in self):
            ledger.tap.close()
            self._taps = {key: one for key, one in self._taps.items() if one is not ledger.tap}

    def clear(self) -> None:
        """Forget all ledgers, and hear no model."""
        for tap in self._taps.values():
            tap.close()
        for ledger in self:
            ledger.clear()
        self._taps, self._by_tracker, self._by_optimizer = {}, {}, {}
