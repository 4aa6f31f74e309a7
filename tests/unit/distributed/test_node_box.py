"""Letters in the memory of one machine: real folders, a real key-value store, and a reader that is killed."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from gradwatch.distributed import mailbox as module
from gradwatch.distributed import node_box
from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.node_box import NodeBox


@pytest.fixture
def boxes(monkeypatch, tmp_path):
    """The mailboxes of ranks 0 to 3. Rank 1 reads ranks 2 and 3 in the machine's memory, and rank 0 reads rank 1."""
    monkeypatch.setattr(node_box, "memory_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "SELDOM", 0.0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    opened = []
    for rank in range(4):
        monkeypatch.setattr(module, "_recording_numbers", itertools.count())
        opened.append(Mailbox(rank))
    opened[1].read_node_here()
    for rank in (2, 3):
        opened[rank].send_on_node(1)
    yield opened
    dist.destroy_process_group()


def keys_of(boxes, rank):
    """The letters of a rank that are in the store."""
    return [letter for letter in range(200) if boxes[0]._store.check([f"{rank}/{letter}"])]


def test_letters_of_a_node_do_not_touch_the_store(boxes):
    for message in (b"a", bytes(range(256)), b"c" * 100_000):
        boxes[2].send(message)
        boxes[3].send(message[:1])
        assert boxes[1].receive_from_all([2, 3]) == [message, message[:1]]
    assert boxes[1].receive_from_all([2, 3]) is None
    assert keys_of(boxes, 2) == keys_of(boxes, 3) == []


def test_letters_from_near_and_far_are_taken_together_or_not_at_all(boxes):
    boxes[2].send(b"near")
    assert boxes[1].receive_from_all([2, 0]) is None
    boxes[0].send(b"far")
    assert boxes[1].receive_from_all([2, 0]) == [b"near", b"far"]


def test_of_near_and_far_those_are_taken_that_are_there(boxes):
    boxes[2].send(b"near")
    assert boxes[1].receive_what_is_there([2, 3, 0]) == {2: b"near"}
    boxes[0].send(b"far")
    boxes[2].send(b"nearer")
    assert boxes[1].receive_what_is_there([0, 3, 2]) == {0: b"far", 2: b"nearer"}


def test_letters_from_before_the_reader_was_known_are_read_first(boxes):
    late = boxes[3]
    late._node = None
    late.send(b"through the store")
    late.send_on_node(1)
    late.send(b"through memory")
    assert [boxes[1].receive(3), boxes[1].receive(3), boxes[1].receive(3)] == [
        b"through the store",
        b"through memory",
        None,
    ]


def test_first_letters_wait_for_the_reader_for_a_limited_time(boxes, monkeypatch):
    monkeypatch.setattr(module, "NODE_WITHIN", 3600.0)
    boxes[2].send_on_node(0)  # which never says where it reads
    assert boxes[2].look_whether_full()
    monkeypatch.setattr(module, "NODE_WITHIN", 0.0)
    assert not boxes[2].look_whether_full()
    boxes[2].send(b"x")
    assert boxes[0].receive(2) == b"x"


@pytest.mark.parametrize("unread", [0, 1, 3])
def test_a_reader_that_ends_leaves_what_it_has_not_read_to_the_next(boxes, unread, tmp_path):
    for at in range(3):
        boxes[2].send(b"%d" % at)
    for _ in range(3 - unread):
        boxes[1].receive(2)
    boxes[1].close_node(forward=True)
    boxes[0].read_from(2, boxes[1].letters_read(2))
    boxes[2].send(b"3")
    found = [boxes[0].receive(2) for _ in range(unread + 1)]
    assert found == [b"%d" % at for at in range(3 - unread, 4)]
    assert boxes[0].receive(2) is None
    boxes[3].look_whether_full()
    boxes[3].send(b"x")
    assert boxes[0].receive(3) == b"x"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_goes_when_its_reader_ends_after_its_senders(boxes, tmp_path):
    for rank in (2, 3):
        boxes[rank].send(b"the last one")
    assert boxes[1].receive_from_all([2, 3]) is not None
    boxes[1].close_node(forward=False)
    assert list(tmp_path.iterdir()) == []


def test_a_letter_that_is_left_while_the_reader_ends_is_not_lost(boxes, monkeypatch):
    put = NodeBox.put

    def put_and_close(self, *letter):
        put(self, *letter)
        boxes[1]._read_here.close()  # after it has looked for unread letters for the last time

    boxes[2].send(b"0")
    assert boxes[1].receive(2) == b"0"
    monkeypatch.setattr(NodeBox, "put", put_and_close)
    boxes[2].send(b"1")
    boxes[0].read_from(2, 1)
    assert boxes[0].receive(2) == b"1"


def test_more_than_a_rank_may_keep_in_memory_takes_the_store_in_order(boxes):
    messages = [bytes([at]) * (node_box.ROOM // 3) for at in range(8)] + [b"x" * (node_box.ROOM + 1)]
    for message in messages:
        boxes[2].send(message)
    assert len(keys_of(boxes, 2)) == 6
    assert [boxes[1].receive(2) for _ in messages] == messages
    boxes[2].send(b"again near")
    assert boxes[1].receive(2) == b"again near"


def test_a_full_memory_ends_its_use_and_loses_no_letter(boxes, monkeypatch):
    boxes[2].send(b"0")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NodeBox, "put", full)
    for at in range(1, 4):
        boxes[2].send(b"%d" % at)
    assert [boxes[1].receive(2) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    assert keys_of(boxes, 2) == [1, 2, 3]


def test_a_sender_is_full_until_its_oldest_message_is_read(boxes):
    for _ in range(module.MAX_UNREAD):
        assert not boxes[2].look_whether_full()
        boxes[2].send(b"x")
    assert boxes[2].look_whether_full()
    boxes[1].receive(2)
    assert not boxes[2].look_whether_full()


def test_a_rank_that_shares_no_memory_with_its_node_takes_the_store_and_says_so(boxes, monkeypatch, caplog):
    boxes[1].announce("node/1", "/nowhere/gradwatch-node-x")
    boxes[3].send(b"x")
    assert boxes[1].receive(3) == b"x"
    assert caplog.text == "", "blocks of ranks are not always machines"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with caplog.at_level(logging.WARNING):
        boxes[2].send(b"x")
    assert caplog.text.count("(no-shared-memory)") == 1


def test_without_a_folder_for_letters_the_store_takes_them(boxes, monkeypatch, tmp_path):
    monkeypatch.setattr(node_box, "memory_folder", lambda: tmp_path / "missing")
    boxes[0].read_node_here()
    boxes[3].send_on_node(0)
    boxes[3].send(b"x")
    assert boxes[0].receive(3) == b"x"


def test_a_folder_that_can_not_be_locked_is_not_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(node_box, "_locked", lambda descriptor, *, shared=False: False)
    assert NodeBox.serve(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_two_readers_on_one_machine_do_not_read_each_others_letters(boxes):
    boxes[0].read_node_here()
    boxes[3].send_on_node(0)
    boxes[2].send(b"for 1")
    boxes[3].send(b"for 0")
    assert boxes[0].receive(2) is None
    assert boxes[1].receive(3) is None
    assert (boxes[0].receive(3), boxes[1].receive(2)) == (b"for 0", b"for 1")


def test_a_near_sender_hears_of_the_end_although_it_does_not_ask_the_store(boxes):
    boxes[2].send(b"x")
    boxes[0].announce("closed", True)
    assert not boxes[2].look_whether_closed(), "it asks its reader, which is open"
    boxes[1].close_node(forward=False)
    assert boxes[2].look_whether_closed()


def test_the_letters_to_a_killed_reader_take_the_store_and_the_folder_goes(boxes, tmp_path):
    boxes[2].send(b"0")
    os.close(boxes[1]._read_here._lock)  # as the kernel does with a process that is killed
    boxes[2].send(b"1")
    boxes[2].send(b"2")
    assert keys_of(boxes, 2) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_where_the_store_is_gone_with_the_reader_the_letters_and_the_folder_go_too(boxes, tmp_path, monkeypatch):
    def gone(*_):
        raise ConnectionError

    for rank in (2, 3):
        boxes[rank].send(b"0")
        monkeypatch.setattr(boxes[rank], "_store", type("Store", (), {"set": gone})())
    os.close(boxes[1]._read_here._lock)
    with pytest.raises(ConnectionError):
        boxes[2].send(b"1")
    boxes[3].leave_nothing_on_node()
    assert list(tmp_path.iterdir()) == []


def test_a_child_of_the_reader_that_outlives_it_does_not_count_as_the_reader(tmp_path):
    box = NodeBox.serve(tmp_path)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, b"here")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reads, 4)
        assert NodeBox.find(box.folder) is not None
        os.close(box._lock)  # as the kernel does with a process that is killed
        box._lock = None
        assert NodeBox.find(box.folder) is None
        NodeBox.serve(tmp_path).close()
        assert not box.folder.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for end in (reads, writes):
            os.close(end)


def test_what_was_killed_before_it_had_a_name_is_removed_after_a_while(tmp_path):
    (tmp_path / ".gradwatch-old").mkdir()
    (tmp_path / ".gradwatch-new").mkdir()
    os.utime(tmp_path / ".gradwatch-old", (0, 0))
    node_box.sweep_nodes(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [".gradwatch-new"]


KILLED = """
import sys, time
from pathlib import Path
from gradwatch.distributed.node_box import NodeBox
print(NodeBox.serve(Path(sys.argv[1])).folder, flush=True)
time.sleep(60)
"""


def test_a_killed_reader_is_noticed_at_once_and_its_folder_removed_by_the_next(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as reader:
        folder = reader.stdout.readline().strip()
        box = NodeBox.find(folder)
        assert box is not None
        box.put(2, 0, b"unread")
        other = NodeBox.serve(tmp_path)
        assert box.has(2, 0), "the reader lives, and its folder is not swept away"
        os.kill(reader.pid, signal.SIGKILL)
        reader.wait()
    assert not box.is_open()
    third = NodeBox.serve(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([other.folder, third.folder])
