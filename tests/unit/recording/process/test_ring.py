"""The ring of messages that two processes share."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest

from gradwatch.recording.process import ring as rings
from gradwatch.recording.process.ring import HEADER_BYTES, Ring, open_memory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")


@pytest.fixture(params=[64, 1000, 4096])
def pair(request, tmp_path):
    fd = open_memory(HEADER_BYTES + request.param, tmp_path)
    yield Ring(fd), Ring(fd)
    os.close(fd)


def test_messages_come_out_as_they_went_in_and_in_order(pair):
    writer, reader = pair
    generator, expected = random.Random(0), []
    for number in range(3000):
        message = bytes([number % 256]) * generator.randrange(0, 70)
        while writer.write([message[:3], memoryview(message)[3:]]):
            expected.append(message)
            message = bytes([number % 255]) * generator.randrange(0, 70)
        for _ in range(generator.randrange(1, 4)):
            found = reader.read()
            assert found == (expected.pop(0) if expected else None)
    assert [reader.read() for _ in expected] == expected
    assert (reader.read(), writer.used) == (None, 0)


def test_what_has_no_room_is_refused_and_changes_nothing(pair):
    writer, reader = pair
    assert not writer.write([bytes(writer.size)]), "with its length it is too long"
    assert reader.read() is None
    assert writer.write([bytes(writer.size - 8)])
    assert not writer.write([b""])
    assert reader.read() == bytes(writer.size - 8)
    assert reader.read() is None
    assert writer.used == 0


def test_locks_that_an_interrupt_left_taken_hold_up_no_message(pair):
    writer, reader = pair
    for lock in writer._locks:
        lock.acquire()
    assert writer.write([b"norm"])
    assert reader.read() == b"norm"
    assert not any(lock.locked() for lock in writer._locks)


def test_what_a_killed_process_wrote_is_there(tmp_path):
    fd = open_memory(HEADER_BYTES + 4096, tmp_path)
    child = os.fork()
    if child == 0:
        writer = Ring(fd)
        writer.write([b"first"])
        writer.write([b"second"])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    reader = Ring(fd)
    assert [reader.read(), reader.read(), reader.read()] == [b"first", b"second", None]
    os.close(fd)


def test_without_anonymous_memory_a_file_without_a_name_is_taken(tmp_path, monkeypatch):
    monkeypatch.delattr(rings.os, "memfd_create", raising=False)
    fd = open_memory(HEADER_BYTES + 64, tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
    writer, reader = Ring(fd), Ring(fd)
    assert writer.write([b"there"])
    assert reader.read() == b"there"
    os.close(fd)
