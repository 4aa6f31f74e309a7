"""Lines of JSON over pipes, at neither end of which anybody waits."""

import math
import os
import sys
import time

import pytest

from gradwatch.recording.process.channel import MOST_UNSENT, Channel

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")


@pytest.fixture
def pair():
    (here, there_out), (there, here_out) = os.pipe(), os.pipe()
    channels = Channel(here, here_out), Channel(there, there_out)
    yield channels
    for channel in channels:
        channel.close()


def test_lines_come_whole_and_in_order(pair):
    one, other = pair
    for number in range(200):
        one.send("event", number, math.nan, "\udc80")
    found = other.receive(1.0)
    found += other.receive()
    assert [line[1] for line in found] == list(range(200))
    assert math.isnan(found[0][2])
    assert found[0][3] == "\udc80"


def test_a_ring_of_the_bell_is_no_line(pair):
    one, other = pair
    one.wake()
    began = time.monotonic()
    assert other.receive(30.0) == []
    assert time.monotonic() - began < 20.0, "it woke"


def test_a_side_that_reads_nothing_holds_up_nobody_and_gets_what_has_room(pair):
    one, other = pair
    for number in range(3 * MOST_UNSENT // 1000):
        one.send(number, "x" * 1000)
    assert not one.push()
    found = []
    while lines := other.receive():
        found += lines
        one.push()
    numbers = [line[0] for line in found]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= MOST_UNSENT // 1010


def test_the_end_of_the_other_side_is_noticed_after_its_last_line(pair):
    one, other = pair
    one.send("last words")
    one.close()
    assert other.receive(1.0) == [["last words"]]
    assert other.receive(1.0) == []
    assert other.is_ended
    other.send("nobody reads this")
    other.wake()
