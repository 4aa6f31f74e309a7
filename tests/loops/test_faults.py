"""Whatever of ours fails, and wherever: the training is the one without us, and one message says it."""

import contextlib
import linecache
import logging
import random
import sys
import threading
from inspect import CO_GENERATOR
from pathlib import Path

import pytest
import torch

import gradwatch
from gradwatch import Run
from gradwatch.recording import lifecycle
from gradwatch.store import StoreReader

from . import test_loops as loops

PACKAGE = Path(gradwatch.__file__).parent


LOOPS = [
    *loops.INEFFECTIVE,
    loops.clip_between,
    loops.clip_two_groups,
    loops.clip_after_accumulation,
    loops.clip_and_add_noise,
    loops.clip_an_attack,
    loops.clip_never,
]


class PlantedFault(Exception):
    """What no code of ours expects."""


class Planter:
    """Raises an exception in one of the calls between gradwatch functions, and counts these calls.

    Hooks are left out, because they only pass a call on to guarded code (`guarded`, `harmless` and what they enter). So
    are generators, because they are also called to be closed, where nothing can catch an exception.
    """

    def __init__(self, at=None, thread="MainThread"):
        self.at, self.thread, self.calls, self.where = at, thread, 0, None

    def __call__(self, frame, event, _):
        code, caller = frame.f_code, frame.f_back
        ours = code.co_filename.startswith(str(PACKAGE)) and caller is not None
        if event != "call" or not ours or not caller.f_code.co_filename.startswith(str(PACKAGE)):
            return
        if threading.current_thread().name != self.thread or code.co_flags & CO_GENERATOR:
            return
        if code.co_name in ("guarded", "harmless", "enter", "leave") or code.co_filename.startswith(
            str(PACKAGE / "recording" / "hooks")
        ):
            return
        self.calls += 1
        if self.calls == self.at:
            self.where = f"{Path(code.co_filename).name}:{code.co_name}"
            raise PlantedFault(self.where)
        return

    @contextlib.contextmanager
    def planted(self):
        before = sys.gettrace()
        if self.thread == "MainThread":
            sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


def train(loop, folder=None, planter=None):
    """The weights, the momenta and the random state after six steps; faults are planted while it trains."""
    model = loops.net()
    optimizer = loops.sgd(model, momentum=0.9)
    if planter is not None and planter.thread != "MainThread":
        threading.settrace(planter)
    try:
        watch = contextlib.nullcontext() if folder is None else gradwatch.attach(model, optimizer, folder)
    finally:
        threading.settrace(None)
    with watch, contextlib.nullcontext() if planter is None else planter.planted():
        for _ in range(6):
            loop(model, optimizer)
            if folder is not None and planter is not None and planter.thread != "MainThread":
                watch.flush(timeout=2.0)
    momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    return [p.detach().clone() for p in model.parameters()], momenta, [torch.get_rng_state()]


def assert_same(left, right):
    for ours, theirs in zip(left, right, strict=True):
        assert len(ours) == len(theirs)
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("faults", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("thread", ["MainThread", "gradwatch"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_fault_anywhere_leaves_the_training_as_it_is(tmp_path, loop, thread, faults, caplog):
    expected = train(loop)
    counter = Planter(thread=thread)
    assert_same(train(loop, tmp_path / "counted", counter), expected)
    assert counter.calls > 50
    rng = random.Random(f"{loop.__name__} {thread} {faults}")
    seen = set()
    for number in range(faults):
        caplog.clear()
        planter = Planter(rng.randrange(1, counter.calls + 1), thread)
        with caplog.at_level(logging.WARNING, "gradwatch"):
            found = train(loop, tmp_path / str(number), planter)
        assert_same(found, expected)
        said = [record.getMessage() for record in caplog.records]
        said = [message for message in said if "ineffective" not in message and "(steps-dropped)" not in message]
        if planter.where is not None:
            seen.add(planter.where)
            assert len(said) <= 1, said
        assert lifecycle.open_runs() == []
    assert len(seen) > faults // 5, "faults were planted in many places"


class Interrupt:
    """Raises KeyboardInterrupt at one of gradwatch's lines, as Ctrl-C does, and counts these lines.

    Python itself looks for a signal at calls and jumps alone. So none comes just before a lock is released, which is
    where a `with` is traced for the second time.
    """

    def __init__(self, at=None):
        self.within = set()
        self.at, self.lines, self.where = at, 0, None

    def __call__(self, frame, event, _):
        code = frame.f_code
        return self._line if code.co_filename.startswith(str(PACKAGE)) and code.co_name != "__exit__" else None

    def _line(self, frame, event, _):
        if event == "line" and not self._is_left(frame):
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line

    def _is_left(self, frame):
        place = id(frame), frame.f_lineno
        if not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            return False
        is_left = place in self.within
        self.within.add(place)
        return is_left

    @contextlib.contextmanager
    def planted(self):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("interrupts", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_after_an_interrupt_anywhere_in_attach_nothing_is_left_and_the_next_one_records(tmp_path, interrupts):
    backward, counter = torch.autograd.backward, Interrupt()
    for name, each in (("warm", Interrupt()), ("counted", counter)):
        model = loops.net()
        with each.planted():
            gradwatch.attach(model, loops.sgd(model), tmp_path / name).close()
    rng, reached = random.Random(interrupts), 0
    for number in range(interrupts):
        model, run = loops.net(), tmp_path / str(number)
        optimizer, interrupt = loops.sgd(model), Interrupt(rng.randrange(1, counter.lines + 1))
        watch = None
        with interrupt.planted():
            watch = gradwatch.attach(model, optimizer, run)
        if watch is not None:  # it came after the end of attach, if at all
            watch.close()
            continue
        reached += 1
        assert torch.autograd.backward is backward, interrupt.where
        assert not optimizer._optimizer_step_pre_hooks, interrupt.where
        assert lifecycle.open_runs() == [], interrupt.where
        with gradwatch.attach(model, optimizer, run):
            for _ in range(2):
                loops.clip_between(model, optimizer)
        with StoreReader(run) as reader:
            assert len(reader.step_columns()["id"]) == 2, interrupt.where
            assert all(attempt.ended is not None for attempt in reader.attempts()), interrupt.where
    assert reached > interrupts // 3


@pytest.mark.parametrize("interrupts", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_after_an_interrupt_anywhere_in_a_step_the_loop_goes_on_as_it_would(tmp_path, interrupts):
    """The interrupted step was made or not; all others are."""

    def trained(steps, folder=None, interrupt=None):
        model = loops.net()
        optimizer = loops.sgd(model, momentum=0.9)
        with contextlib.nullcontext() if folder is None else gradwatch.attach(model, optimizer, folder):
            for step in range(steps):
                torch.manual_seed(0)
                with interrupt.planted() if step == 2 and interrupt is not None else contextlib.nullcontext():
                    optimizer.zero_grad()
                    loops.clip_between(model, optimizer)
        return [p.detach().clone() for p in model.parameters()]

    counter = Interrupt()
    trained(5, tmp_path / "counted", counter)
    possible = [trained(4), trained(5)]
    rng = random.Random(interrupts)
    for number in range(interrupts):
        interrupt = Interrupt(rng.randrange(1, counter.lines + 1))
        found = trained(5, tmp_path / str(number), interrupt)
        assert any(all(map(torch.equal, found, weights)) for weights in possible), interrupt.where
        assert lifecycle.open_runs() == [], interrupt.where
        assert Run(tmp_path / str(number)).attempts()[-1].reason == "closed", interrupt.where
