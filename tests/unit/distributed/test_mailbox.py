"""The mailbox on a real key-value store of torch.distributed."""

import importlib
import itertools
import json
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent import futures
from types import SimpleNamespace

import numpy as np
import pytest
import torch.distributed as dist

import gradwatch
from gradwatch.distributed import mailbox as module
from gradwatch.distributed.mailbox import MAX_UNREAD, Mailbox, Rank0NotAttached, world_of

PATIENCE = 30.0  # seconds
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell when a process started")


@pytest.fixture
def open_mailbox(monkeypatch):
    """Opens the mailbox of one rank after another, as processes with a counter each would."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def opened(rank, earlier=0):
        monkeypatch.setattr(module, "_recording_numbers", itertools.count(earlier))
        return Mailbox(rank)

    yield opened
    dist.destroy_process_group()


def test_messages_of_each_rank_arrive_once_and_in_order(open_mailbox):
    receiver, first, second = open_mailbox(0), open_mailbox(1), open_mailbox(2)
    first.send(b"a")
    second.send(b"x")
    first.send(b"b")
    assert [receiver.receive(1), receiver.receive(1), receiver.receive(1)] == [b"a", b"b", None]
    assert [receiver.receive(2), receiver.receive(2), receiver.receive(3)] == [b"x", None, None]


def test_letters_of_several_ranks_are_taken_together_or_not_at_all(open_mailbox):
    receiver, first, second = open_mailbox(0), open_mailbox(1), open_mailbox(2)
    first.send(b"a")
    assert receiver.receive_from_all([1, 2]) is None
    second.send(b"")
    assert receiver.receive_from_all([2, 1]) == [b"", b"a"]
    assert receiver.receive_from_all([1]) is None
    assert (receiver.letters_read(1), receiver.letters_read(2), receiver.letters_read(3)) == (1, 1, 0)


def test_letters_that_are_there_are_taken_by_few_requests(open_mailbox):
    receiver, senders = open_mailbox(0), [open_mailbox(rank) for rank in range(1, 5)]
    for sender in senders[:3]:
        sender.send(b"of %d" % sender.rank)
    senders[0].send(b"next")
    receiver._store = store = Counting(receiver._store)
    assert receiver.receive_what_is_there([4, 3, 2, 1]) == {3: b"of 3", 2: b"of 2", 1: b"of 1"}
    assert store.requests == 4 + 2
    assert receiver.receive_what_is_there([1, 2, 4]) == {1: b"next"}
    assert receiver.receive_what_is_there([1, 2, 3, 4]) == {}


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, store):
        self._store, self.requests = store, 0

    def __getattr__(self, name):
        self.requests += 1
        return getattr(self._store, name)


def test_what_is_announced_rarely_is_asked_for_less_and_less(open_mailbox, monkeypatch):
    now = [1000.0]
    announcer, asker = open_mailbox(0), open_mailbox(1)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asker._store = store = Counting(asker._store)
    requests = []
    for _ in range(3):
        before = store.requests
        for _ in range(100):
            assert asker.seldom_announced("flat") is None
            now[0] += 1.0
        requests.append(store.requests - before)
    assert requests[0] > 2 * requests[1] >= 2 * requests[2] > 0
    announcer.announce("flat", True)
    now[0] += module.SELDOM * module.SELDOM_AT_MOST
    assert asker.seldom_announced("flat") is True


def test_another_rank_can_go_on_reading_where_one_stopped(open_mailbox):
    next_reader, sender, reader = open_mailbox(0), open_mailbox(1), open_mailbox(2)
    for message in (b"a", b"b", b"c"):
        sender.send(message)
    assert [reader.receive(1), reader.receive(1)] == [b"a", b"b"]
    next_reader.read_from(1, reader.letters_read(1))
    assert [next_reader.receive(1), next_reader.receive(1)] == [b"c", None]


def test_any_bytes_arrive_as_they_were_sent(open_mailbox):
    receiver, sender = open_mailbox(0), open_mailbox(1)
    for message in (b"\0", bytes(range(256)), b"x" * 5_000_000):
        sender.send(message)
        assert receiver.receive(1) == message


def test_a_sender_is_full_until_its_oldest_message_is_read(open_mailbox):
    receiver, sender = open_mailbox(0), open_mailbox(1)
    for _ in range(MAX_UNREAD):
        assert not sender.look_whether_full()
        sender.send(b"x")
    assert sender.look_whether_full()
    receiver.receive(1)
    assert not sender.look_whether_full()


def test_messages_that_were_read_are_deleted_by_little_more_than_one_request_each(open_mailbox):
    receiver, sender = open_mailbox(0), open_mailbox(1)
    sender._store = store = Counting(sender._store)
    for _ in range(40):
        assert not sender.look_whether_full()
        sender.send(b"x")
        receiver.receive(1)
    assert sum(receiver._store.check([f"1/{letter}"]) for letter in range(40)) <= 2 * module.KEPT_UNASKED
    assert store.requests < 2.3 * 40


def test_announcements_are_read_by_all_and_a_missing_one_is_none(open_mailbox):
    mailbox, other = open_mailbox(0), open_mailbox(1)
    assert other.announced("open") is None
    began = time.monotonic()
    assert other.announced("open", seconds=0.2) is None
    assert time.monotonic() - began >= 0.1
    mailbox.announce("open", {"0": 7})
    assert other.announced("open") == other.announced("open", seconds=5.0) == {"0": 7}


def test_a_rank_that_missed_a_recording_skips_its_closed_mailbox(open_mailbox):
    earlier = open_mailbox(0)
    earlier.announce("closed", True)
    later = open_mailbox(0, earlier=1)
    sender = open_mailbox(1)
    sender.send(b"new")
    assert earlier.receive(1) is None
    assert later.receive(1) == b"new"


def test_workers_that_torchrun_starts_again_have_mailboxes_of_their_own(open_mailbox, monkeypatch):
    before, sender_before = open_mailbox(0), open_mailbox(1)
    before.announce("open", {"0": 7})
    monkeypatch.setattr(module, "_worlds", weakref.WeakKeyDictionary())  # as in new processes, with the same store
    with futures.ThreadPoolExecutor() as pool:
        store = dist.distributed_c10d._get_default_store()
        early = pool.submit(world_of, store, 1, PATIENCE)  # it finds what is left of the training before
        time.sleep(2 * module.OLD_WORLD_PAUSE)
        after = open_mailbox(0)
        early.result(PATIENCE)
        sender = open_mailbox(1)
    assert sender.announced("open") is None
    sender.send(b"x")
    sender_before.send(b"old")
    assert (before.receive(1), before.receive(1)) == (b"old", None)
    assert (after.receive(1), after.receive(1)) == (b"x", None)


def test_a_node_that_joined_later_counts_fewer_restarts_and_is_heard(open_mailbox, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    receiver = open_mailbox(0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    open_mailbox(1).send(b"x")
    assert receiver.receive(1) == b"x"


def test_a_rank_that_is_new_to_the_store_does_not_join_a_training_of_another_size(monkeypatch):
    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # registers the backend "fake"
    store = dist.HashStore()
    worlds = []
    for ranks in (2, 4):
        dist.init_process_group("fake", store=store, rank=0, world_size=ranks)
        monkeypatch.setattr(module, "_worlds", weakref.WeakKeyDictionary())
        if ranks == 4:
            with pytest.raises(Rank0NotAttached):
                world_of(store, 3, seconds=2 * module.OLD_WORLD_PAUSE)
        worlds.append([world_of(store, rank, PATIENCE) for rank in range(ranks)])
        dist.destroy_process_group()
    assert [len(set(names)) for names in worlds] == [1, 1]
    assert worlds[0][0] != worlds[1][0]


def test_a_rank_waits_for_rank_0_and_no_longer_than_it_may():
    store = dist.HashStore()
    with pytest.raises(Rank0NotAttached):
        world_of(store, 1, seconds=0.1)
    with futures.ThreadPoolExecutor() as pool:
        early = pool.submit(world_of, store, 1, PATIENCE)
        time.sleep(0.1)
        assert world_of(store, 0, 0.0) == early.result(PATIENCE)


RECORD = """
    import sys, time, logging
    import torch, torch.distributed as dist
    import torch.testing._internal.distributed.fake_pg  # registers the backend "fake"
    from torch import nn
    import gradwatch

    rank, port, run, pause = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("fake", store=store, rank=rank, world_size=2)
    print("here", flush=True)
    input()
    if rank == 1 and pause < 0:
        raise SystemExit  # before it attaches
    time.sleep(max(pause, 0.0))
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, run, ranks=True, recorder="thread") as watch:
        print("attached", flush=True)
        for _ in range(3):
            model(torch.full((1, 2), rank + 1.0)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        if pause < 0:
            input()  # until it is killed
"""


@pytest.mark.slow
@LINUX
def test_a_rank_that_never_attached_before_a_restart_is_heard_after_it(tmp_path):
    """The name that rank 0 left in the store is known to no earlier process of the other rank."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    (tmp_path / "train.py").write_text(textwrap.dedent(RECORD))

    def start(rank, name, pause):
        program = [sys.executable, "train.py", str(rank), str(store.port), name, str(pause)]
        return subprocess.Popen(program, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def train(name, pauses):
        ranks = [start(rank, name, pause) for rank, pause in enumerate(pauses)]
        assert [one.stdout.readline() for one in ranks] == ["here\n"] * 2  # as if they had met
        for one in ranks:
            one.stdin.write("\n")
            one.stdin.flush()
        return ranks

    killed, silent = train("before", [-1.0, -1.0])
    assert killed.stdout.readline() == "attached\n"
    silent.communicate(timeout=PATIENCE)
    killed.kill()
    killed.communicate()
    for one in train("after", [1.0, 0.0]):  # rank 1 looks before rank 0 has made a name
        one.communicate(timeout=2 * PATIENCE)
        assert one.returncode == 0
    norms = gradwatch.Run(tmp_path / "after").ranks("norm")
    np.testing.assert_allclose(norms, [[3**0.5, 3.0]] * 3, rtol=1e-6)


@LINUX
def test_a_name_from_before_this_process_is_not_taken_where_another_one_comes():
    store = dist.HashStore()
    store.set(module.WORLD, json.dumps(["old", 1, time.time() - 1e6]))
    with futures.ThreadPoolExecutor() as pool:
        early = pool.submit(world_of, store, 1, PATIENCE)
        time.sleep(2 * module.OLD_WORLD_PAUSE)
        assert world_of(store, 0, 0.0) == early.result(PATIENCE) != "old"


@LINUX
def test_a_name_from_before_this_process_is_taken_if_no_other_one_comes(monkeypatch):
    store = dist.HashStore()
    store.set(module.WORLD, json.dumps(["old", 1, time.time() - 1e6]))
    began = time.monotonic()
    assert world_of(store, 1, seconds=0.3) == "old"
    assert time.monotonic() - began >= 0.3
    monkeypatch.setattr(module, "_worlds", weakref.WeakKeyDictionary())
    with pytest.raises(Rank0NotAttached):  # an earlier process of this rank has read it
        world_of(store, 1, seconds=0.3)


def test_without_a_key_value_store_opening_raises():
    program = "from gradwatch.distributed import Mailbox\nMailbox(0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "process group" in done.stderr
