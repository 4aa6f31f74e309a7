"""A tap is put in for the first listener and taken out after the last."""

import threading

import pytest

from gradwatch.recording.hooks.registry import HookRegistry


def registry():
    log = []

    def put_in():
        log.append("in")
        return [lambda: log.append("first out"), lambda: log.append("last out")]

    return HookRegistry(put_in), log


def test_without_a_listener_there_is_no_tap():
    listeners, log = registry()
    assert list(listeners) == []
    assert log == []


def test_the_tap_stays_until_the_last_has_left_and_comes_back_for_the_next():
    listeners, log = registry()
    stop, stop_other = listeners.add("a"), listeners.add("b")
    stop()
    assert (list(listeners), log) == (["b"], ["in"])
    stop_other()
    assert (list(listeners), log) == ([], ["in", "last out", "first out"]), "what was put in last is taken out first"
    stop_again = listeners.add("c")
    stop()
    assert list(listeners) == ["c"], "an end counts once"
    stop_again()
    assert log.count("in") == 2


def test_a_listener_may_be_there_twice():
    listeners, log = registry()
    stop, stop_other = listeners.add("a"), listeners.add("a")
    stop()
    assert list(listeners) == ["a"]
    stop_other()
    assert len(log) == 3


def test_one_who_leaves_meanwhile_is_still_told():
    listeners, _ = registry()
    listeners.add("a")
    stop = listeners.add("b")
    told = []
    for listener in listeners:
        told.append(listener)
        stop()
    assert told == ["a", "b"]


def test_those_who_join_meanwhile_are_told_once():
    listeners, _ = registry()
    listeners.add("a")
    told = []

    def tell(listener):
        told.append(listener)
        if len(told) < 4:
            listeners.add(f"joined by {listener}")

    assert listeners.tell(tell) == told
    assert told == ["a", "joined by a", "joined by joined by a", "joined by joined by joined by a"]


def test_threads_put_one_tap_in():
    listeners, log = registry()
    ends = []
    threads = [threading.Thread(target=lambda n=n: ends.append(listeners.add(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["in"]
    for end in ends:
        end()
    assert len(log) == 3


def test_an_interrupt_while_the_tap_is_taken_out_leaves_no_second_one():
    tapped, interrupts = [], [KeyboardInterrupt()]

    def take_out():
        if interrupts:
            raise interrupts.pop()
        tapped.clear()

    def put_in():
        yield take_out
        tapped.append("tap")

    listeners = HookRegistry(put_in)
    with pytest.raises(KeyboardInterrupt):
        listeners.add("a")()
    stop = listeners.add("b")
    assert tapped == ["tap"]
    stop()
    assert not tapped
