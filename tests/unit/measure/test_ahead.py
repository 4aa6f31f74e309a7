"""What is read in the helper thread is what is read at once, and nothing that changed meanwhile is taken for it."""

import os
import sys
import threading

import numpy as np
import pytest
import torch

from gradwatch.measure import ahead, begin_reading, drop_reading, fused, is_reading, measure

pytestmark = pytest.mark.skipif(not fused.is_available(), reason="the compiled part is not built")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ahead, "LEAST", 1)
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    yield
    drop_reading()


def gradients(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    sizes = (1, 300_000, 0, 70_000, 64 * 1024)
    found = [torch.randn(size).to(dtype) for size in sizes]
    found[1][7], found[3][:9] = float("nan"), 0.0
    return [*found[:2], None, *found[2:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_it_finds_the_same_bits(dtype):
    own = gradients(dtype=dtype)
    at_once = measure(own).collect()
    for _ in range(20):
        begin_reading(own)
        assert is_reading()
        ahead_of_time = measure(own).collect()
        assert not is_reading()
        assert all(np.array_equal(at_once[name], ahead_of_time[name], equal_nan=True) for name in at_once)


def test_other_gradients_are_read_themselves():
    begun, others = gradients(0), gradients(1)
    alone = measure(others).collect()["norm"]
    begin_reading(begun)
    assert np.array_equal(measure(others).collect()["norm"], alone, equal_nan=True)
    assert np.array_equal(measure(begun[:2]).collect()["norm"], measure(begun).collect()["norm"][:2], equal_nan=True)


def test_what_was_dropped_is_read_again():
    own = [torch.full((300_000,), 2.0)]
    begin_reading(own)
    drop_reading()
    own[0].fill_(0.0)
    assert measure(own).collect()["zeros"].tolist() == [300_000]


@pytest.mark.parametrize(("least", "processors"), [(2**60, 2), (1, 1)], ids=["few entries", "one processor"])
def test_no_helper_is_woken_where_it_is_not_worth_it(monkeypatch, least, processors):
    monkeypatch.setattr(ahead, "LEAST", least)
    monkeypatch.setattr(ahead, "_processors", lambda: processors)
    begin_reading(gradients())
    assert not is_reading()


def test_of_two_threads_that_train_one_has_the_helper():
    own, seen = gradients(0), []

    def other():
        theirs = gradients(1)
        begin_reading(theirs)
        seen.extend((is_reading(), measure(theirs).collect()["abs_max"]))

    begin_reading(own)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen[0] is False
    assert is_reading()
    assert np.array_equal(seen[1], measure(gradients(1)).collect()["abs_max"], equal_nan=True)
    begin_reading(own)
    assert is_reading()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_helper_of_its_own():
    own = [torch.full((300_000,), 2.0)]
    begin_reading(own)
    measure(own)
    child = os.fork()
    if not child:
        begin_reading(own)
        right = is_reading() and measure(own).collect()["abs_max"].tolist() == [2.0]
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def interrupted(work, at):
    """Whether Ctrl-C came, before this instruction of ours."""
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if not frame.f_code.co_filename.endswith(("measure/ahead.py", "measure/fused.py")):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            passed += 1
            if passed == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("ends", [measure, lambda gradients: drop_reading()], ids=["measured", "dropped"])
def test_an_interrupt_anywhere_leaves_no_reading_behind(ends):
    def clip():
        try:
            begin_reading(own)
            ends(own)
        finally:
            sys.settrace(None)  # a second interrupt is not meant here
            drop_reading()

    at, came = 0, True
    while came:
        at += 1
        own = [torch.full((3,), float(at))]
        came = interrupted(clip, at)
        assert not is_reading()
        begin_reading(own)
        assert is_reading(), f"the helper still reads after an interrupt at instruction {at}"
        assert measure(own).collect()["abs_max"].tolist() == [float(at)]
    assert at > 100
