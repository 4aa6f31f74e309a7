"""What gathering thousands of ranks costs: `python benchmarks/many_ranks.py > benchmarks/many_ranks.txt`.

Two real processes share a TCPStore: one is rank 0 with the real mailbox and the real gatherer. The other plays all
other ranks, one step at a time: it leaves their real letters in memory or, between nodes, in the store, and runs the
real relay of each rank that combines others, once in `INTERVAL` seconds as the sender's thread does. A step has 300
parameters with four statistics. Every rank holds a part of its own of each (as `fully_shard` cuts them), or a copy (as
under DDP).

Processor time is that of the one thread, which shares the interpreter with the training. The store itself is served by
the other process. Bytes are those of the letters that are read. A step is recorded after the seconds between the last
letter of a rank and the end of gathering; many relays in one process make it longer than it would be on machines of
their own. In the lines of rank 0 alone, only the ranks that it reads are played, each with the letter of its subtree.

"Played" is the processor time, in one step, of the process that plays the others: after the last letter of a rank and
before the end of gathering, the store's server included. It is what this machine adds to the seconds that a training
waits. With ``--slowed 16`` every interval of the code (between two looks, until a rank is given up on) is 16 times as
long, and every second of the table is a sixteenth of one: what has to be computed delays a step 16 times less, and what
has to be waited for as much as before. That is how soon a step is recorded where each rank has a processor of its own,
but for the processor time of the few ranks on the longest way to rank 0, a relay on each level.
"""

from __future__ import annotations

import argparse
import collections
import copy
import gc
import heapq
import itertools
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch.distributed as dist
from far_link import FAR, open_line

from gradwatch.distributed import (
    JoinedParts,
    LocalStep,
    Mailbox,
    ParameterPart,
    RankGatherer,
    RankTree,
    SubtreeRelay,
    gather,
    mailbox,
    node_box,
)
from gradwatch.distributed import relay as relaying
from gradwatch.distributed.messages import Heard, Item, SubtreeParts, SubtreeStep, pack
from gradwatch.record import RANK_STATS, STATS, ParameterInfo
from gradwatch.recording.sink import INTERVAL

PARAMETERS = 300
SLOW_SHARE, SLOW_SECONDS = 0.05, 1.0
SLOWED = [(gather, "PAUSE"), (gather, "LONGEST_PAUSE"), (gather, "ALL_AT_ONCE"), (relaying, "ALL_AT_ONCE")]
SLOWED += [(mailbox, "SELDOM"), (gather, "FIRST_PATIENCE"), (gather, "PATIENCE")]
DEAD_PATIENCE = 3.0  # seconds, in the cases with a dead node
NODE = 8  # ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One simulated training.

    Attributes:
        ranks: of the training.
        steps: to gather after the first.
        slow: whether one rank in twenty sends its letters a second after the others.
        dead: whether the last node of eight ranks sends nothing after the first step.
        copies: whether all ranks hold copies of whole parameters (DDP) instead of parts.
        attempt: number of the elastic restart.
        only_readers: whether only the ranks that rank 0 reads are played, each with the letter of a whole subtree.
        on_nodes: whether letters within a node stay in the machine's memory.
        slowed: how many times as long every interval is as usual.
    """

    ranks: int
    steps: int = 8
    slow: bool = False
    dead: bool = False
    copies: bool = False
    attempt: int = 0
    only_readers: bool = False
    on_nodes: bool = True
    slowed: float = 1.0

    @property
    def tree(self) -> RankTree:
        return RankTree.of_environment(self.ranks, {"LOCAL_WORLD_SIZE": str(NODE)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCost:
    """What one step cost the busiest rank that combines others, and the one in the middle of all."""

    most: float = 0.0
    median: float = 0.0
    most_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one case cost; processor seconds, bytes, seconds and MB.

    All of rank 0 but for ``relay``, ``relay_first`` and ``played``, which is of the process with all other ranks.
    """

    first: float
    first_bytes: int
    each: float
    bytes: float
    delay: float
    longest: float
    store_requests: float
    store_bytes: float
    memory: float
    unknown: int
    missing: int
    relay_first: RelayCost
    relay: RelayCost
    played: float


class CountingStore:
    """Counts the requests to a store, and the bytes that are put into it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.requests = self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        self.requests += 1
        return getattr(self._store, name)

    def set(self, key: str, value: Any) -> None:
        self.requests += 1
        self.bytes += len(value)
        self._store.set(key, value)


class CountingMailbox(Mailbox):
    """Counts the bytes that it reads, and what it asks of the store."""

    read = 0

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.store = self._store = CountingStore(self._store)

    def receive_from_all(self, ranks: Sequence[int]) -> list[bytes] | None:
        messages = super().receive_from_all(ranks)
        self.read += sum(map(len, messages or ()))
        return messages


def parts(part: str) -> JoinedParts:
    infos = [ParameterInfo(name=f"layers.{at}.attention.weight", shape=(4096, 4096)) for at in range(PARAMETERS)]
    return JoinedParts("0", 0, [ParameterPart(info=info, part=part) for info in infos])


def local_step(number: int, copies: bool) -> LocalStep:
    table = np.ones((len(STATS), PARAMETERS), np.float32)
    norm = float(np.sqrt(PARAMETERS))
    return LocalStep(
        optimizer="0",
        number=number,
        stats=STATS,
        table=table,
        norm=norm,
        nonfinite=0.0,
        before_reduction=copies,
        loss=1.0,
    )


def subtree_items(ranks: range, number: int) -> list[Item]:
    """What a relay sends for a subtree of ranks that each hold a part of their own."""
    step = local_step(number, copies=False)
    table = np.zeros((len(RANK_STATS), len(ranks)), np.float32)
    table[0] = np.random.default_rng(number).random(len(ranks))
    whole = SubtreeStep(
        optimizer="0", number=number, stats=STATS, table=step.table, first_rank=ranks[0], ranks=table, losses=len(ranks)
    )
    if number:
        return [whole]
    infos = tuple(part.info for part in parts("").parts if part is not None)
    held = frozenset(map(str, ranks))
    joined = SubtreeParts(optimizer="0", infos=infos, parts=(held,), held=(0,) * len(infos))
    return [joined, Heard(tuple(ranks)), whole]


def open_mailbox(rank: int, case: Case) -> CountingMailbox:
    """The mailbox of a played rank, as that rank would open it in a process of its own."""
    mailbox._recording_numbers = itertools.count(100 * case.ranks + case.attempt)  # cases share the store
    return CountingMailbox(rank)


def as_rank(rank: int, box: CountingMailbox) -> CountingMailbox:
    """The mailbox of another rank over the same connection."""
    other = copy.copy(box)
    other.rank, other._received, other._in_store, other._asked, other.read = rank, {}, collections.deque(), {}, 0
    return other


class Relay:
    """A rank that combines others, and what that cost it since it was last asked."""

    def __init__(self, rank: int, box: CountingMailbox, case: Case) -> None:
        self.rank, self.box = rank, box
        self.sent = -1  # the last step that it has sent
        self._relay = SubtreeRelay(box, case.tree, rank)
        self._seconds = 0.0

    def add(self, *items: JoinedParts | LocalStep) -> None:
        for item in items:
            self._relay.add(item)

    def round(self) -> None:
        """What the sender's thread does every `INTERVAL` seconds."""
        began = time.thread_time()
        items = self._relay.collect()
        if items:
            self.box.send(pack(items))
            self.sent = max(item.number for item in items if isinstance(item, SubtreeStep))
        self._seconds += time.thread_time() - began

    def cost(self) -> tuple[float, int]:
        found = self._seconds, self.box.read
        self._seconds, self.box.read = 0.0, 0
        return found


class Players:
    """All ranks but 0."""

    def __init__(self, case: Case) -> None:
        self._case = case
        box = open_mailbox(1, case)
        self._top = [as_rank(rank, box) for rank in case.tree.children(0)] if case.only_readers else []
        ranks = range(1, 0 if case.only_readers else case.ranks)
        self._relays = [Relay(rank, as_rank(rank, box), case) for rank in ranks if case.tree.children(rank)]
        relays = {relay.rank for relay in self._relays}
        self._boxes = {rank: as_rank(rank, box) for rank in ranks if rank not in relays}
        self._store = box.store
        if case.on_nodes:
            for relay in self._relays:
                if case.tree.neighbours(relay.rank):
                    relay.box.read_node_here()
            for rank, leaf in self._boxes.items():
                leaf.send_on_node(case.tree.parent(rank))
            for top in self._top:
                if top.rank in case.tree.neighbours(0):
                    top.send_on_node(0)
        random = np.random.default_rng(0)
        self._slow = set(random.permutation(list(self._boxes))[: int(SLOW_SHARE * case.ranks)].tolist())
        self._join = pack([parts("" if case.copies else "RANK")])
        self._dead = set(range(case.ranks - NODE, case.ranks)) if case.dead else set()
        self.processor_seconds = 0.0  # after the last letter of a rank in the last step

    def play(self, number: int, pipe: Connection) -> float:
        """Do everything that the ranks do in one step, and say when rank 0 is to gather.

        Returns the time of the last letter of a rank.
        """
        step = local_step(number, self._case.copies)
        letter, slow = pack([step]), self._case.slow and number
        for relay in self._relays:
            if number == 0:
                relay.add(parts("" if self._case.copies else str(relay.rank)))
            relay.add(step)
        late = []
        for rank, box in self._boxes.items():
            if number and rank in self._dead:
                continue
            if slow and rank in self._slow:
                late.append(box)
                continue
            if number == 0:
                box.send(self._join.replace(b"RANK", str(rank).encode()))
            box.send(letter)
        for top in self._top:
            top.send(pack(subtree_items(self._case.tree.subtree(top.rank), number)))
        sent, began = time.time(), time.process_time()
        pipe.send("gather")
        if late:
            self._relay(number, SLOW_SECONDS * self._case.slowed)
            for box in late:
                box.send(letter)
            sent, began = time.time(), time.process_time()
        self._relay(number, float("inf"))
        self.processor_seconds = time.process_time() - began
        return sent

    def close(self) -> None:
        for relay in self._relays:
            relay.box.close_node(forward=False)

    def asked(self) -> tuple[int, int]:
        """Requests and bytes that the store of the training got since it was last asked."""
        found = self._store.requests, self._store.bytes
        self._store.requests = self._store.bytes = 0
        return found

    def _relay(self, number: int, seconds: float) -> None:
        """Run the rounds of all relays, each at a time of its own, until they have sent the step."""
        random = np.random.default_rng(1)
        began = time.monotonic()
        alive = [relay for relay in self._relays if not (number and relay.rank in self._dead)]
        interval = INTERVAL * self._case.slowed
        rounds = [(began + interval * random.random(), relay.rank, relay) for relay in alive if relay.sent < number]
        heapq.heapify(rounds)
        while rounds and rounds[0][0] < began + seconds:
            due, rank, relay = heapq.heappop(rounds)
            time.sleep(max(0.0, due - time.monotonic()))
            relay.round()
            if relay.sent < number:
                heapq.heappush(rounds, (time.monotonic() + interval, rank, relay))

    def cost(self) -> RelayCost:
        """What was asked of the relays since it was last asked."""
        if not self._relays:
            return RelayCost()
        seconds, read = zip(*(relay.cost() for relay in self._relays), strict=True)
        return RelayCost(most=max(seconds), median=statistics.median(seconds), most_bytes=max(read))


def begin(rank: int, port: int, slowed: float, host: str = "127.0.0.1") -> None:
    for module, name in SLOWED:
        setattr(module, name, getattr(module, name) * slowed)
    gather.FIRST_PATIENCE = 900.0 * slowed  # one process makes the first step of all relays
    store = dist.TCPStore(host, port, 2, is_master=rank == 1)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)


def patience(case: Case) -> float:
    return (DEAD_PATIENCE if case.dead else 30.0) * case.slowed


def play(port: int, slowed: float, pipe: Connection) -> None:
    """The other process: plays what the pipe asks for."""
    gc.disable()  # it holds what thousands of processes hold, and a relay does not collect the garbage of the others
    begin(1, port, slowed)
    node_box.sweep_nodes()  # what a killed simulation has left
    node_box.sweep_nodes = lambda place=None: None  # it is for one reader of a machine, not for thousands
    players = None
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, Case):
            gather.PATIENCE = patience(asked)
            if players is not None:
                players.close()
            players = Players(asked)
            pipe.send(None)
        elif players is not None:
            pipe.send(players.play(asked, pipe))
            pipe.send(players.cost())
            pipe.send(players.asked())
            pipe.send(players.processor_seconds)
    if players is not None:
        players.close()
    dist.destroy_process_group()


def measure(case: Case, pipe: Connection) -> Cost:
    """Gather one case in this process, which is rank 0."""
    gather.PATIENCE = patience(case)
    box = open_mailbox(0, case)
    if case.on_nodes:
        box.read_node_here()
    pipe.send(case)
    pipe.recv()
    gatherer = RankGatherer(box, case.ranks, case.tree)
    gatherer.join(0, parts("" if case.copies else "0"))
    took, read, delays, relays, stores, played = [], [], [], [], [], []
    unknown = missing = 0
    for number in range(case.steps + 1):
        pipe.send(number)
        pipe.recv()
        before, began = box.read, time.thread_time()
        found = gatherer.gather(local_step(number, case.copies))
        took.append(time.thread_time() - began)
        read.append(box.read - before)
        done = time.time()
        delays.append((done - pipe.recv()) / case.slowed)
        relays.append(pipe.recv())
        others = pipe.recv()
        stores.append((others[0] + box.store.requests, others[1]))
        box.store.requests = 0
        played.append(pipe.recv())
        unknown += found is None
        missing = 0 if found is None else int(np.isnan(found.ranks.before_reduction).sum())
    gatherer.close()
    box.close_node(forward=False)
    each = [relay.most for relay in relays[1:]]
    return Cost(
        first=took[0],
        first_bytes=read[0],
        each=statistics.median(took[1:]),
        bytes=statistics.median(read[1:]),
        delay=statistics.median(delays[1:]),
        longest=max(delays[1:]),
        store_requests=statistics.median(requests for requests, _ in stores[1:]),
        store_bytes=statistics.median(bytes_ for _, bytes_ in stores[1:]),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        unknown=unknown,
        missing=missing,
        relay_first=relays[0],
        relay=RelayCost(
            most=statistics.median(each),
            median=statistics.median(relay.median for relay in relays[1:]),
            most_bytes=max(relay.most_bytes for relay in relays[1:]),
        ),
        played=statistics.median(played[1:]),
    )


def line(what: str, cost: Cost) -> str:
    return (
        f"{what:<36}{cost.first_bytes / 1e6:>7.2f}{1e3 * cost.first:>7.0f}{cost.bytes / 1e3:>8.0f}"
        f"{1e3 * cost.each:>8.2f}{1e3 * cost.relay_first.most:>8.0f}{cost.relay.most_bytes / 1e3:>7.0f}"
        f"{1e3 * cost.relay.most:>7.2f}{1e3 * cost.relay.median:>8.2f}"
        f"{cost.delay:>8.2f}{cost.longest:>7.2f}{cost.store_bytes / 1e6:>8.2f}{cost.store_requests:>8.0f}"
        f"{cost.memory:>6.0f}{cost.unknown:>8}{cost.missing:>8}{cost.played:>8.2f}"
    )


HEAD = (
    f"{'':<36}{'rank 0, first':>14}{'rank 0, each':>16}{'relay 1st':>10}{'each, most':>13}{'median':>7}"
    f"{'recorded after':>15}{'store, each':>16}{'':>6}{'steps':>8}{'ranks':>8}{'played':>8}\n"
    f"{'':<36}{'MB':>7}{'ms':>7}{'KB':>8}{'ms':>8}{'ms':>8}{'KB':>7}{'ms':>7}{'ms':>8}"
    f"{'s':>8}{'worst':>7}{'MB':>8}{'asked':>8}{'MB':>6}{'unknown':>8}{'missing':>8}{'s':>8}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 256, 1024, 4096, 16384])
    parser.add_argument(
        "--faults-at",
        type=int,
        default=256,
        help="ranks of the cases with a fault; 0 for none",
    )
    parser.add_argument("--store-only", action="store_true", help="leave no letters in the memory of a machine")
    parser.add_argument("--slowed", type=float, default=1.0, help="make every interval this many times as long")
    parser.add_argument(
        "--far",
        type=float,
        nargs=2,
        metavar=("MS", "PERCENT"),
        help="rank 0 reaches the store with this delay each way, and this share of packets lost (needs root)",
    )
    parser.add_argument("--rank-0-at", type=int, nargs="*", default=[1024, 16384, 100_000], help="see the last lines")
    options = parser.parse_args()
    common = {"on_nodes": not options.store_only, "slowed": options.slowed}
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a lock for each node
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipe, other = multiprocessing.Pipe()
    player = multiprocessing.get_context("spawn").Process(target=play, args=(port, options.slowed, other))
    player.start()
    if options.far:
        open_line(options.far[0] / 1e3, options.far[1] / 100)
    begin(0, port, options.slowed, FAR if options.far else "127.0.0.1")
    text = " ".join(f"{one:.1f}" for one in os.getloadavg())
    slowed = "" if options.slowed == 1 else f"; intervals times {options.slowed:g}"
    if options.far:
        slowed += f"; rank 0 behind {options.far[0]:g} ms and {options.far[1]:g} % loss"
    machine = f"{os.cpu_count()} processors, load {text}{slowed}"
    print(f"{PARAMETERS} parameters, {len(STATS)} statistics, every step; {machine}")
    print(HEAD)
    for ranks in options.ranks:
        steps = 8 if ranks < 2000 else 3
        print(
            line(f"{ranks} ranks, sharded", measure(Case(ranks=ranks, steps=steps, **common), pipe)),
            flush=True,
        )
    if ranks := options.faults_at:
        faults = {
            f"{ranks} ranks, copies": Case(ranks=ranks, copies=True, attempt=1),
            f"{ranks} ranks, 1 in 20 slow by 1 s": Case(ranks=ranks, steps=3, slow=True, attempt=2),
            f"{ranks} ranks, copies, a dead node": Case(ranks=ranks, copies=True, steps=3, dead=True, attempt=3),
            f"{ranks} ranks, sharded, a dead node": Case(ranks=ranks, steps=3, dead=True, attempt=4),
            f"{ranks * 3 // 4} ranks after a restart": Case(ranks=ranks * 3 // 4, attempt=5),
        }
        for what, case in faults.items():
            print(line(what, measure(replace(case, slowed=options.slowed), pipe)), flush=True)
    for ranks in options.rank_0_at:
        cost = measure(Case(ranks=ranks, only_readers=True, attempt=6, **common), pipe)
        print(line(f"{ranks} ranks, rank 0 alone", cost), flush=True)
    print("load at the end", " ".join(f"{one:.1f}" for one in os.getloadavg()))
    pipe.send(None)
    player.join()
    dist.destroy_process_group()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
