"""Checks of the training loop that no gradient shows: is zero_grad called, and does the script change gradients itself?

Both are read from the identity and the version of a few gradients (`Tensor._version` counts changes in place), and
on the host from some entries of one, so that nothing is computed and nothing waits for a device. What was seen
becomes entries of the table meta when the run is closed; which parameters are frozen is told at once, for a run is
also read while it goes on, and after it was killed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradwatch.measure import is_on_host
from gradwatch.record import FROZEN_KEY
from gradwatch.recording.gradients import version_of
from gradwatch.recording.hooks import take_compiled_clip
from gradwatch.recording.loop_table import is_of_this_thread, this_thread
from gradwatch.recording.parameters import listed_or_none, named_parameters, unregistered_parameters

logger = logging.getLogger("gradwatch")

P = ParamSpec("P")
T = TypeVar("T")
PROBES = 3  # parameters of each optimizer that are looked at
GRADIENTS_AT_STEP = 2  # the step, from 0, from which on the parameters that have a gradient are noted

ENTRIES = 4  # of one gradient, about, that are read

Entries = tuple[int, list[complex]] | None
"""Which gradient, and some of its entries."""

State = tuple[tuple[int, int] | None, ...]
"""For each probe the identity and the version of its gradient; None: it has none."""


def _harmless(method: Callable[Concatenate[LoopCheck, P], None]) -> Callable[Concatenate[LoopCheck, P], None]:
    """Stop checking after a fault; the training and the recording go on."""

    @functools.wraps(method)
    def harmless(self: LoopCheck, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.failed:
            try:
                method(self, *args, **kwargs)
            except Exception as error:
                self.failed = True
                logger.debug("the checks of the loop ended", exc_info=error)

    return cast("Callable[Concatenate[LoopCheck, P], None]", harmless)


class _Probes:
    """A few gradients of one optimizer, and what happened to them since its last step.

    Attributes:
        was_reached: the last backward wrote these gradients.
        steps: made so far.
        carried_steps: at which backward added to the gradients of the step before, of any probe.
        carried_each: the same of each probe.
        chosen: the parameters that are probed.
        was_ever_reached: some backward wrote these gradients.
        changed_steps: at which something else than a clip call changed the gradients between backward and step.
        mixed_steps: at which backward added to what the backward of another optimizer's step had left.
        dropped_steps: at which every gradient was gone that backward had written.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.chosen: tuple[weakref.ref[Tensor], ...] = ()
        self._lengths: list[int] = []
        self._known: State | None = None
        self._entries: Entries = None
        self._backwards = 0
        self._may_be_carried: list[bool] = []
        self._is_carried: list[bool] = []
        self._is_changed = False
        self._has_closure = False
        self._is_left = self._is_mixed = False
        self.was_reached = self.was_ever_reached = False
        self._weights: list[int] = []  # versions of the parameters before the first backward
        self.steps = self.carried_steps = self.changed_steps = self.mixed_steps = self.dropped_steps = 0
        self.thread = this_thread()  # that steps the optimizer
        self.carried_each: list[int] = []

    def _choose(self) -> None:
        """Choose the gradients that this update is known by, anew where parameters came, went or were frozen."""
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        lengths = [len(group["params"]) for group in groups]
        if self.chosen and lengths == self._lengths and all(map(_is_trained, self.chosen)):
            return
        self._lengths = lengths
        parameters = [p for group in groups for p in group["params"] if p.requires_grad]
        probed = _spread(parameters)
        self.chosen = tuple(map(weakref.ref, probed))
        self._weights = [version_of(parameter) for parameter in probed]
        self.carried_each = [0] * len(self.chosen)
        self._may_be_carried, self._is_carried = [], []

    def _note(self) -> None:
        """Take the gradients as they are now as known."""
        self._known, self._entries = self._state(), self._some_entries()

    def _some_entries(self) -> Entries:
        """Some entries of one gradient, where reading them waits for nothing.

        `Tensor._version` does not count what is written through ``.data``, as clipping by hand often is.
        """
        for reference in reversed(self.chosen):  # the first is often an embedding, mostly zeros
            gradient = None if (parameter := reference()) is None else parameter.grad
            if type(gradient) is Tensor and gradient.layout is strided and gradient.is_contiguous():
                on_host = is_on_host(gradient) and not gradient.is_neg()
                return (
                    (id(gradient), gradient.view(-1)[:: max(1, gradient.numel() // ENTRIES)].tolist())
                    if on_host
                    else None
                )
        return None

    def _are_entries_changed(self) -> bool:
        before = self._entries
        now = None if before is None else self._some_entries()
        if now is None or before is None or now[0] != before[0]:
            return False
        return now[1] != before[1] and str(now[1]) != str(before[1])  # a NaN does not equal itself

    def _state(self) -> State:
        found: list[tuple[int, int] | None] = []
        for reference in self.chosen:  # four times a step: a generator would take as long again
            gradient = getattr(reference(), "grad", None)
            found.append(None if gradient is None else (id(gradient), version_of(gradient)))
        return tuple(found)

    def before_backward(self) -> None:
        """Zeroing leaves no gradient, or changes it: what is as it was is carried into this backward."""
        if not self._backwards:
            self._choose()
        state = self._state()
        if self._backwards and state != self._known:
            self._is_changed = False  # zeroed, or a training of its own between: it is looked at from here on
        is_kept = state == self._known and any(state)
        self._is_left &= is_kept
        kept = [now is not None and now == then for now, then in zip(state, self._known or (), strict=False)]
        self._may_be_carried = _both(self._may_be_carried, kept)
        self._is_carried = _both(self._is_carried, kept)
        self._known = state

    def after_backward(self) -> None:
        self._backwards += 1
        before = self._known
        self._note()
        self.was_reached = self._known != before
        self.was_ever_reached |= self.was_reached
        written = [now != then for now, then in zip(self._known or (), before or (), strict=False)]
        added = _both(self._may_be_carried, written)
        self._is_carried = [a or b for a, b in itertools.zip_longest(self._is_carried, added, fillvalue=False)]

    def after_step_of_another(self) -> None:
        """Its backward wrote these gradients too: unless they are zeroed, the next backward adds to them."""
        self._is_left = self.was_reached and any(self._known or ())

    def note_whether_mixed(self, is_own: bool) -> None:
        """After a backward that wrote these gradients, and with ``is_own`` those of no other optimizer.

        A backward for several optimizers, as of the next task of an encoder that they share, adds on purpose.
        """
        self._is_mixed = self._is_left and is_own

    @property
    def is_moved_without_steps(self) -> bool:
        """Whether the optimizer made no step, and its parameters were written all the same since the first backward."""
        now = [None if (p := parameter()) is None else version_of(p) for parameter in self.chosen]
        return not self.steps and any(a is not None and a != b for a, b in zip(now, self._weights, strict=True))

    def trained_instead(self) -> type[nn.Module] | None:
        """The class of a module with parameters of the same shapes that get gradients and that no optimizer holds.

        Asked where the optimizer's own parameters get none. It looks at every object of the process.
        """
        optimizer = self._optimizer()
        if self.was_ever_reached or not self.chosen or optimizer is None:
            return None
        shapes = _shapes(p for p in listed_or_none(optimizer) or () if p.requires_grad)
        everything = gc.get_objects()
        held = _held_by(_of_class(Optimizer, everything))
        modules = _of_class(nn.Module, everything)
        return next((type(module) for module in modules if _is_trained_beside(module, shapes, held)), None)

    def accept(self) -> None:
        """Take the change that was just made to the gradients as known: a clip call or a scaler made it."""
        if self._backwards:
            self._note()

    def look(self) -> None:
        """Note whether the gradients changed since they were looked at last; one that became None was zeroed."""
        self._look_at(self._state())

    def _look_at(self, state: State) -> None:
        if not self._backwards or self._known is None:
            return
        # One that is as it was takes no closer look.
        differs = state != self._known and any(
            new != old for new, old in zip(state, self._known, strict=False) if new is not None
        )
        self._is_changed |= differs or self._are_entries_changed()

    def note_change(self) -> None:
        """The gradients were changed, as is known without looking at them."""
        self._is_changed = True

    def before_step(self, has_closure: bool) -> None:
        self._has_closure = has_closure
        if not has_closure:
            state = self._state()
            self.dropped_steps += self._backwards > 0 and any(self._known or ()) and not any(state)
            self._look_at(state)

    def after_step(self) -> None:
        self.steps += 1
        if self._backwards and any(self._is_carried):
            self.carried_steps += 1
            each = zip(self.carried_each, self._is_carried, strict=True)
            self.carried_each = [count + is_carried for count, is_carried in each]
        self.mixed_steps += self._is_mixed
        self.changed_steps += self._is_changed and not self._has_closure
        self._known, self._backwards, self._is_changed = self._state(), 0, False
        self._may_be_carried, self._is_carried = [not self._has_closure] * len(self._known), []
        self._is_left = self._is_mixed = self.was_reached = False


def _spread(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters to probe: the first, the last and those between at even distances."""
    last = len(parameters) - 1
    places = sorted({round(i * last / (PROBES - 1)) for i in range(PROBES)}) if parameters else []
    return [parameters[place] for place in places]


def _shapes(parameters: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in parameters if not is_lazy(p)]


def _of_class(kind: type[T], objects: Iterable[Any]) -> Iterator[T]:
    """By the type alone: `isinstance` asks proxies for their class, and they may answer with work."""
    return (one for one in objects if issubclass(type(one), kind))


def _held_by(optimizers: Iterable[Optimizer]) -> set[int]:
    return {id(p) for one in optimizers for p in listed_or_none(one) or ()}


def _is_trained_beside(module: nn.Module, shapes: Sequence[tuple[int, ...]], held: Set[int]) -> bool:
    """Whether a module's parameters have these shapes, get gradients, and are none of ``held``."""
    with contextlib.suppress(Exception):  # whatever a module of the script does when asked
        parameters = list(module.parameters())
        if _shapes(parameters) != shapes or all(p.grad is None for p in parameters):
            return False
        return held.isdisjoint(map(id, parameters))
    return False


def _both(some: Sequence[bool], others: Sequence[bool]) -> list[bool]:
    return [one and other for one, other in zip(some, others, strict=False)]


def _is_trained(reference: weakref.ref[Tensor]) -> bool:
    parameter = reference()
    return parameter is not None and parameter.requires_grad


def _is_power_of_two(steps: int) -> bool:
    """Whether it is time to look at a model that the script may have changed: in all, a few times.

    >>> [steps for steps in range(20) if _is_power_of_two(steps)]
    [1, 2, 4, 8, 16]
    """
    return steps > 0 and steps & (steps - 1) == 0


def _facts_of(name: str, probes: _Probes) -> dict[str, str]:
    counts = {
        "carried_steps": probes.carried_steps,
        "changed_steps": probes.changed_steps,
        "mixed_steps": probes.mixed_steps,
        "dropped_steps": probes.dropped_steps,
    }
    return {f"{kind}.{name}": str(count) for kind, count in counts.items()}


class LoopCheck:
    """Looks at the gradients around each call of the loop; it changes nothing and measures nothing.

    Whoever calls it passes on only the calls of the thread that trains. To look at gradients in another thread
    would meet a backward writing them, without Python's lock.

    Attributes:
        failed: the checks have ended, because they raised or could not see clip calls.
    """

    def __init__(self, models: Callable[[], Iterable[nn.Module]], note: Callable[[dict[str, str]], None]) -> None:
        """``note`` keeps entries for the table meta that can't wait for the end of the run."""
        self.failed = False
        self._models = models
        self._note = note
        self._probes: dict[str, _Probes] = {}
        self._by_optimizer: dict[int, _Probes] = {}
        self._found: dict[str, str] = {}  # of optimizers that are gone
        self._with_gradient: dict[str, weakref.ref[nn.Parameter]] = {}
        self._frozen: dict[str, weakref.ref[Tensor]] = {}
        self._trained_instead: dict[str, str] = {}  # by the optimizer: the class of a model that gets its gradients

    def follow(self, name: str, optimizer: Optimizer) -> None:
        """Check the steps of one more optimizer."""
        self._probes[name] = self._by_optimizer[id(optimizer)] = _Probes(optimizer)

    def give_up(self) -> None:
        """Check no more: clip calls can't be seen, and would be taken for changes."""
        self.failed = True

    def let_go(self, name: str) -> None:
        """Keep no more of an optimizer that is gone than its facts."""
        probes = self._probes.pop(name, None)
        if probes is not None:
            self._found |= _facts_of(name, probes)
            self._by_optimizer = {key: one for key, one in self._by_optimizer.items() if one is not probes}

    def facts(self) -> dict[str, str]:
        """Entries for the table meta."""
        if self.failed:
            return {}
        found = dict(self._found)
        for name, probes in self._probes.items():
            found |= _facts_of(name, probes) | self._carried_in(name, probes)
            found |= {f"moved_without_steps.{name}": "true"} if probes.is_moved_without_steps else {}
        self._note_gradients()
        found |= {f"trained_instead.{name}": model for name, model in self._trained_instead.items()}
        without = self._without_optimizer()
        found |= {"parameters_without_optimizer": json.dumps(without)} if without else {}
        return found | self._frozen_now()

    def _carried_in(self, name: str, probes: _Probes) -> dict[str, str]:
        """The probes that are carried at most steps, where others are not: one module is left out of the zeroing."""
        pairs = list(zip(probes.chosen, probes.carried_each, strict=False))
        carried = {id(p()) for p, count in pairs if count > probes.steps / 2}
        if not carried or len(carried) == len(pairs):
            return {}
        names = [of for model in self._models() for of, p in named_parameters(model) if id(p) in carried]
        return {f"carried_in.{name}": json.dumps(names)} if names else {}

    def _frozen_now(self) -> dict[str, str]:
        frozen = [name for name, p in self._frozen.items() if (held := p()) is not None and not held.requires_grad]
        return {FROZEN_KEY: json.dumps(frozen)} if self._frozen else {}

    def _without_optimizer(self) -> list[str]:
        """The parameters with a gradient that no living optimizer holds, whether it is recorded or not."""
        if not self._with_gradient:
            return []
        held = _held_by(_of_class(Optimizer, gc.get_objects()))
        alive = ((name, reference()) for name, reference in self._with_gradient.items())
        return [name for name, parameter in alive if parameter is not None and id(parameter) not in held]

    def _note_gradients(self) -> None:
        self._note_other_models()
        held = {
            id(p)
            for probes in self._probes.values()
            if (optimizer := probes._optimizer()) is not None
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for model in self._models():
            for name, parameter in itertools.chain(model.named_parameters(), unregistered_parameters(model)):
                if parameter.grad is not None and id(parameter) not in held:
                    self._with_gradient[name] = weakref.ref(parameter)

    def _note_other_models(self) -> None:
        if len(self._here()) < len(self._probes):
            return  # to look at all models would meet another thread writing their gradients
        for name, probes in self._probes.items():
            if name not in self._trained_instead and (model := probes.trained_instead()) is not None:
                self._trained_instead[name] = model.__name__

    def _note_frozen(self, optimizer: Optimizer) -> None:
        """The parameters that the script gave the optimizer and froze: that they get no gradient is no fault."""
        frozen = {id(p) for group in optimizer.param_groups for p in group["params"] if not p.requires_grad}
        if frozen:
            named = (pair for model in self._models() for pair in named_parameters(model))
            self._frozen |= {name: weakref.ref(p) for name, p in named if id(p) in frozen}
            self._note(self._frozen_now())

    # ------------------------------------------------------------------------- what the loop does

    def train_here(self, name: str) -> None:
        """The calling thread clips the gradients of an optimizer."""
        if name in self._probes:
            self._probes[name].thread = this_thread()

    def _here(self) -> list[_Probes]:
        """Those of the optimizers that no other thread steps."""
        return [probes for probes in self._probes.values() if is_of_this_thread(probes.thread)]

    @_harmless
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        probes = self._by_optimizer[id(optimizer)]
        probes.thread = this_thread()
        probes.before_step(has_closure)
        if take_compiled_clip():
            probes.note_change()
        if _is_power_of_two(probes.steps) and probes.steps >= GRADIENTS_AT_STEP:
            self._note_gradients()
        if probes.steps == GRADIENTS_AT_STEP:
            self._note_frozen(optimizer)

    @_harmless
    def after_step(self, optimizer: Optimizer) -> None:
        own = self._by_optimizer[id(optimizer)]
        for probes in self._here():
            if probes is not own and own.was_reached:
                probes.after_step_of_another()
        own.after_step()

    @_harmless
    def before_backward(self) -> None:
        for probes in self._here():
            probes.before_backward()

    @_harmless
    def after_backward(self) -> None:
        here = self._here()
        for probes in here:
            probes.after_backward()
        if len(here) > 1:
            reached = [probes for probes in here if probes.was_reached]
            for probes in reached:
                probes.note_whether_mixed(is_own=len(reached) == 1)

    @_harmless
    def before_change(self) -> None:
        """A clip call or a GradScaler is about to change gradients."""
        for probes in self._here():
            probes.look()

    @_harmless
    def after_change(self) -> None:
        """A clip call or a GradScaler has changed gradients, and not the script."""
        for probes in self._here():
            probes.accept()
