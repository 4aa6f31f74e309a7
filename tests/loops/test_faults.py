"""Whatever of ours fails, and wherever: the training is the one without us, and one message says it."""

import contextlib
import logging
import random
import sys
import threading
from inspect import CO_GENERATOR
from pathlib import Path

import pytest
import torch

import gradwatch
from gradwatch.recording import lifecycle

from . import test_loops as loops

PACKAGE = Path(gradwatch.__file__).parent

LOOPS = [*loops.INEFFECTIVE, *loops.WITHOUT_FAULT]


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
