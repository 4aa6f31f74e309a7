"""What gathering thousands of ranks costs: `python benchmarks/many_ranks.py > benchmarks/many_ranks.txt`.

Rank 0 is this process, with the real recorder, which writes a run. A few processes play all other ranks: they leave
each rank's real letters in memory or, between nodes, in the training's TCPStore, and run the real relay of each rank
that combines others, once in `INTERVAL` seconds as the sender's thread does. The store has a process of its own. Each
process is in a network namespace of its own, if this system permits it, and stands for a machine with a part of the
nodes; rank 0 is in that of its node. A bridge joins them or, with ``--line``, lines that delay and lose packets.

A step has 300 parameters with four statistics. Every rank holds a part of its own of each (as `fully_shard` cuts them),
or a copy (as under DDP). The numbers depend on rank and step. Letters that are equal but for their sender are encoded
once. All letters are left before the clock starts; relays and rank 0 read, decode and combine each of them.

A training goes through phases: all ranks are quick, then one in twenty sends its letters a second after the others,
then the last node is dead. Another one begins again in the same run with three quarters of the ranks, after rank 0 was
killed. The records, the dropped steps, the events and the messages are compared with what the ranks had.

Processor time of rank 0 is that of gathering alone, in its thread; "all" is its whole process, which makes the record,
looks for events and writes. Bytes are those of the letters that are read. A step is recorded after the seconds between
the last letter of a rank and the end of the transaction. Relays share the processors of this machine, so that this is
more than on machines of their own: "played" is the processor time that the others take meanwhile, the store's included.
In the lines of rank 0 alone, only the ranks that it reads are played, each with the letter of its subtree.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import gc
import heapq
import itertools
import logging
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from machines import Line, Machine, machines

import gradwatch
from gradwatch.distributed import (
    GatheredStep,
    JoinedParts,
    LocalStep,
    Mailbox,
    ParameterPart,
    RankGatherer,
    RankTree,
    SubtreeRelay,
    gather,
    node_box,
)
from gradwatch.distributed.messages import Heard, Item, SubtreeParts, SubtreeStep, pack
from gradwatch.record import RANK_STATS, STATS, ParameterInfo, StepRecord
from gradwatch.recording.recorder import Recorder
from gradwatch.recording.records import LateNumbers, OwnTotals, SharedStep, StepNumbers, record_of_all
from gradwatch.recording.sink import SHORT_INTERVAL as INTERVAL
from gradwatch.store import StoreWriter

PARAMETERS = 300
KINDS = 16  # of ranks: those of a kind have the same numbers
SLOW_SHARE, SLOW_SECONDS = 0.05, 1.0
PATIENCE, DEAD_PATIENCE = 30.0, 10.0  # seconds for a rank that was heard, as usual and where a node is dead
NODE = 8  # ranks
QUICK, SLOW, DEAD = "quick", "slow", "dead"
BETWEEN_STEPS = 0.3  # seconds, in which the recorder and the store come to rest


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One simulated training, or its part until a restart.

    Attributes:
        number: tells it from the other worlds.
        ranks: of the training.
        phases: what the steps after the first are, and how many.
        copies: whether all ranks hold copies of whole parameters (DDP) instead of parts.
        only_readers: whether only the ranks that rank 0 reads are played, each with the letter of a whole subtree.
        on_nodes: whether letters within a node stay in the machine's memory.
    """

    number: int
    ranks: int
    phases: tuple[tuple[str, int], ...]
    copies: bool = False
    only_readers: bool = False
    on_nodes: bool = True

    @property
    def tree(self) -> RankTree:
        return RankTree.of_environment(self.ranks, {"LOCAL_WORLD_SIZE": str(NODE)})

    @property
    def steps(self) -> list[str]:
        """The phase of each step; the first one is not counted among them."""
        return [QUICK, *(phase for phase, steps in self.phases for _ in range(steps))]

    @property
    def last_node(self) -> range:
        return range(self.ranks - NODE, self.ranks)

    @property
    def slow_ranks(self) -> frozenset[int]:
        """One in twenty, among those that combine nothing."""
        leaves = [rank for rank in range(1, self.ranks) if rank % NODE]
        return frozenset(np.random.default_rng(0).permutation(leaves)[: int(SLOW_SHARE * self.ranks)].tolist())

    def share(self, machine: int, of: int) -> range:
        """The ranks of whole nodes that are played on a machine; rank 0 is on the first."""
        nodes = -(-self.ranks // NODE)
        ends = [min(self.ranks, NODE * (nodes * at // of)) for at in (machine, machine + 1)]
        return range(max(1, ends[0]), max(1, ends[1]))


# ------------------------------------------------------------------------ what the ranks have


def kind_of(ranks: np.ndarray | int) -> Any:
    return ranks * 40503 // 16 % KINDS


def numbers_of(kind: int, number: int, *, copies: bool) -> LocalStep:
    """What ranks of a kind measured at one step."""
    table = np.empty((len(STATS), PARAMETERS), np.float32)
    own = 0 if copies else kind
    table[:] = np.array([1 + own / 8, 1 + own + number, 0, own % 3], np.float32)[:, None]
    return LocalStep(
        optimizer="0",
        number=number,
        stats=STATS,
        table=table,
        norm=float(1 + kind + number % 2),
        nonfinite=0.0,
        before_reduction=copies,
        loss=1.0 + kind,
    )


def parts(part: str) -> JoinedParts:
    infos = [ParameterInfo(name=f"layers.{at}.attention.weight", shape=(4096, 4096)) for at in range(PARAMETERS)]
    return JoinedParts("0", 0, [ParameterPart(info=info, part=part) for info in infos])


def subtree_items(ranks: range, number: int) -> list[Item]:
    """What a relay sends for a subtree of ranks that each hold a part of their own."""
    alike = [numbers_of(kind, number, copies=False) for kind in range(KINDS)]
    kinds = kind_of(np.arange(ranks.start, ranks.stop))
    column = together(np.stack([one.table[:, 0] for one in alike])[kinds])
    table = np.zeros((len(RANK_STATS), len(ranks)), np.float32)
    table[0], table[3] = np.array([one.norm for one in alike])[kinds], np.nan
    whole = SubtreeStep(
        optimizer="0",
        number=number,
        stats=STATS,
        table=np.repeat(column.astype(np.float32)[:, None], PARAMETERS, axis=1),
        first_rank=ranks[0],
        ranks=table,
        loss_sum=float((1 + kinds).sum()),
        losses=len(ranks),
    )
    if number:
        return [whole]
    infos = tuple(part.info for part in parts("").parts if part is not None)
    held = frozenset(map(str, ranks))
    joined = SubtreeParts(optimizer="0", infos=infos, parts=(held,), held=(0,) * len(infos))
    return [joined, Heard(tuple(ranks)), whole]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the record of a step has to have.

    Attributes:
        is_known: False if the only rank with some part is dead.
        statistics: of each parameter, which are alike.
        norms: of the ranks, NaN where one is dead.
    """

    is_known: bool
    statistics: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, world: World, number: int) -> Expected:
        ranks = np.arange(world.ranks)
        kinds = kind_of(ranks)
        alike = [numbers_of(kind, number, copies=world.copies) for kind in range(KINDS)]
        norms = np.array([one.norm for one in alike], np.float32)[kinds]
        is_dead = world.steps[number] == DEAD
        if is_dead:
            norms[world.last_node] = np.nan
        rows = np.stack([one.table[:, 0] for one in alike])[kinds[:1] if world.copies else kinds]
        return cls(is_known=world.copies or not is_dead, statistics=together(rows), norms=norms)

    def deviations(self, record: StepRecord | None) -> list[str]:
        """How a record differs."""
        if record is None or not self.is_known:
            return [] if (record is None) is not self.is_known else [f"record: {record is not None}"]
        assert record.layers is not None
        assert record.ranks is not None
        layers, ranks = record.layers, record.ranks
        found = np.array([getattr(layers, stat) for stat in STATS], np.float64)
        wrong = [] if np.allclose(found, self.statistics[:, None], rtol=1e-6) else ["statistics"]
        is_heard = np.isnan(ranks.before_reduction) == np.isnan(self.norms)
        if not np.array_equal(ranks.norm, self.norms, equal_nan=True) or not is_heard.all():
            wrong.append("norms of ranks")
        return wrong + ["copies that differ"] * bool(np.nansum(ranks.differing))


def together(rows: np.ndarray) -> np.ndarray:
    """`STATS` of a parameter whose parts have these, (parts, statistics)."""
    norms, largest, nonfinite, zeros = rows.astype(np.float64).T
    return np.array([np.sqrt((norms**2).sum()), largest.max(), nonfinite.sum(), zeros.sum()])


# ------------------------------------------------------------------------ counting


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

    def taken(self) -> tuple[int, int]:
        """Requests and bytes since this was last asked."""
        found = self.requests, self.bytes
        self.requests = self.bytes = 0
        return found


class CountingMailbox(Mailbox):
    """Counts the bytes that it reads."""

    read = 0

    def _take(self, letters: dict[int, int], here: frozenset[int]) -> dict[int, bytes]:
        messages = super()._take(letters, here)
        self.read += sum(map(len, messages.values()))
        return messages

    def as_rank(self, rank: int) -> CountingMailbox:
        """The mailbox of another rank over the same connection."""
        other = copy.copy(self)
        other.rank, other._received, other._in_store, other._asked, other.read = rank, {}, collections.deque(), {}, 0
        return other


class Silences(logging.Handler):
    """Keeps which ranks the messages name as silent, and what else is said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        is_silence = isinstance(record.msg, str) and record.msg.endswith("(rank-silent)")
        self.said.append(str(args[0]) if is_silence and args else record.getMessage())

    def taken(self) -> list[str]:
        found, self.said = self.said, []
        return found


# ------------------------------------------------------------------------ the processes of the other ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the ranks of one process did in a step.

    Attributes:
        last: when the last letter of a rank was left.
        seconds: processor time of each relay.
        read: bytes that each relay has read.
        store: requests to the store, and bytes.
        said: messages.
    """

    last: float
    seconds: list[float]
    read: list[int]
    store: tuple[int, int]
    said: list[str]


class Relay:
    """A rank that combines others, and what that cost it since it was last asked."""

    def __init__(self, rank: int, box: CountingMailbox, world: World) -> None:
        self.rank, self.box = rank, box
        self.sent = -1  # the last step that it has sent
        self.seconds = 0.0
        self._relay = SubtreeRelay(box, world.tree, rank)

    def add(self, *items: JoinedParts | LocalStep) -> None:
        for item in items:
            self._relay.add(item)

    def round(self) -> None:
        """What the sender's thread does every `INTERVAL` seconds."""
        began = time.thread_time()
        if not self.box.look_whether_closed() and not self.box.look_whether_full():
            items = self._relay.collect()
            if items:
                self.box.send(pack(items))
                self.sent = max(item.number for item in items if isinstance(item, SubtreeStep))
        self.seconds += time.thread_time() - began


class Players:
    """Some of the ranks, but not rank 0."""

    def __init__(self, world: World, ranks: range, store: CountingStore, said: Silences) -> None:
        self._world, self._store, self._said = world, store, said
        tree, box = world.tree, CountingMailbox(ranks.start, store)
        self._top = []
        if world.only_readers:
            ranks, self._top = range(0), [box.as_rank(rank) for rank in tree.children(0) if rank in ranks]
        self._relays = [Relay(rank, box.as_rank(rank), world) for rank in ranks if tree.children(rank)]
        relays = {relay.rank for relay in self._relays}
        self._leaves = {rank: box.as_rank(rank) for rank in ranks if rank not in relays}
        if world.on_nodes:
            for relay in self._relays:
                if tree.neighbours(relay.rank):
                    relay.box.read_node_here()
            for rank, leaf in self._leaves.items():
                leaf.send_on_node(tree.parent(rank))
            for top in self._top:
                if top.rank in tree.neighbours(0):
                    top.send_on_node(0)
        self._late: list[tuple[CountingMailbox, bytes]] = []
        self._alive = self._relays

    def leave_letters(self, number: int) -> None:
        """What all ranks do until a relay or rank 0 reads, but for those that are late."""
        world, phase = self._world, self._world.steps[number]
        be_patient(phase)
        silent = frozenset(world.last_node) if phase == DEAD else frozenset()
        slow = world.slow_ranks if phase == SLOW else frozenset()
        steps = [numbers_of(kind, number, copies=world.copies) for kind in range(KINDS)]
        letters = [pack([step]) for step in steps]
        join = pack([parts("" if world.copies else "RANK")]) if number == 0 else b""
        self._alive = [relay for relay in self._relays if relay.rank not in silent]
        for relay in self._alive:
            if number == 0:
                relay.add(parts("" if world.copies else str(relay.rank)))
            relay.add(steps[kind_of(relay.rank)])
        self._late = []
        for rank, box in self._leaves.items():
            letter = letters[kind_of(rank)]
            if rank in slow:
                self._late.append((box, letter))
            elif rank not in silent:
                if number == 0:
                    box.send(join.replace(b"RANK", str(rank).encode()))
                box.send(letter)
        for top in self._top:
            top.send(pack(subtree_items(world.tree.subtree(top.rank), number)))
        for relay in self._relays:
            relay.seconds = relay.box.read = 0
        self._store.taken()

    def play(self, number: int) -> Played:
        """Run the relays until all have sent the step, and leave the letters of the ranks that are late."""
        last = time.time()
        if self._world.steps[number] == SLOW:
            self._relay(number, SLOW_SECONDS)
            for box, letter in self._late:
                box.send(letter)
            last = time.time()
        self._relay(number, float("inf"))
        return Played(
            last=last,
            seconds=[relay.seconds for relay in self._relays],
            read=[relay.box.read for relay in self._relays],
            store=self._store.taken(),
            said=self._said.taken(),
        )

    def _relay(self, number: int, seconds: float) -> None:
        """Run the rounds of all relays, each at a time of its own, until they have sent the step."""
        random = np.random.default_rng(self._store.requests)
        began = time.monotonic()
        waiting = [relay for relay in self._alive if relay.sent < number]
        rounds = [(began + INTERVAL * random.random(), relay.rank, relay) for relay in waiting]
        heapq.heapify(rounds)
        while rounds and rounds[0][0] < began + seconds:
            due, rank, relay = heapq.heappop(rounds)
            time.sleep(max(0.0, due - time.monotonic()))
            relay.round()
            if relay.sent < number:
                heapq.heappush(rounds, (time.monotonic() + INTERVAL, rank, relay))
        time.sleep(max(0.0, began + seconds - time.monotonic()) if seconds < float("inf") else 0.0)

    def end(self, *, killed: bool) -> None:
        for relay in self._relays:
            if not killed:
                relay.box.close_node(forward=False)
            elif relay.box._read_here is not None:
                relay.box._read_here.unlock()


def be_patient(phase: str) -> None:
    gather.PATIENCE = DEAD_PATIENCE if phase == DEAD else PATIENCE
    gather.FIRST_PATIENCE = 900.0  # a few processes make the first step of all relays


def play(machine: Machine, at: int, of: int, store: tuple[str, int], pipe: Connection) -> None:
    """A process of the other ranks: does what the pipe asks for."""
    machine.enter()
    gc.disable()  # it holds what many processes hold, and a relay does not collect the garbage of the others
    node_box.sweep_nodes = lambda place=None: None  # it is for one reader of a machine, not for thousands
    said = Silences()
    logging.getLogger("gradwatch").addHandler(said)
    connection = dist.TCPStore(*store, is_master=False)
    players: Players | None = None
    while (asked := pipe.recv()) is not None:
        match asked:
            case World():
                within = CountingStore(dist.PrefixStore(f"world{asked.number}", connection))
                ranks = range(1, asked.ranks) if asked.only_readers else asked.share(at, of)
                players = Players(asked, range(1, 1) if asked.only_readers and at else ranks, within, said)
                pipe.send(None)
            case "leave", int(number):
                assert players is not None
                players.leave_letters(number)
                pipe.send(None)
            case "play", int(number):
                assert players is not None
                began = time.process_time()
                done = players.play(number)
                pipe.send((done, time.process_time() - began))
            case "end", bool(killed):
                assert players is not None
                players.end(killed=killed)
                players = None
                pipe.send(None)


def serve(machine: Machine, port: int, pipe: Connection) -> None:
    """The process with the training's store; tells its processor time when asked."""
    machine.enter()
    store = dist.TCPStore(machine.address, port, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    while pipe.recv() is not None:
        pipe.send(time.process_time())


class Others:
    """The processes beside rank 0."""

    def __init__(self, found: Sequence[Machine]) -> None:
        """The last machine has the store, and each other one a part of the ranks."""
        forks = multiprocessing.get_context("fork")
        self._server, other = multiprocessing.Pipe()
        self._processes = [forks.Process(target=serve, args=(found[-1], 0, other), daemon=True)]
        self._processes[0].start()
        self.address = found[-1].address, self._server.recv()
        self._pipes = []
        for at, machine in enumerate(found[:-1]):
            pipe, other = multiprocessing.Pipe()
            args = (machine, at, len(found) - 1, self.address, other)
            process = forks.Process(target=play, args=args, daemon=True)
            process.start()
            self._pipes.append(pipe)
            self._processes.append(process)

    def ask(self, what: object) -> list[Any]:
        """Let all do something, and wait for it."""
        self.begin(what)
        return self.answers()

    def begin(self, what: object) -> None:
        for pipe in self._pipes:
            pipe.send(what)

    def answers(self) -> list[Any]:
        return [pipe.recv() for pipe in self._pipes]

    def served(self) -> float:
        """Processor seconds of the store's process until now."""
        self._server.send(True)
        return float(self._server.recv())

    def close(self) -> None:
        for pipe in (*self._pipes, self._server):
            pipe.send(None)
        for process in self._processes:
            process.join()


# ------------------------------------------------------------------------ rank 0


class TimedGatherer(RankGatherer):
    """Takes the processor time of gathering, and keeps what was gathered."""

    seconds = 0.0

    def gather(self, own: LocalStep) -> GatheredStep | None:
        began = time.thread_time()
        try:
            return super().gather(own)
        finally:
            self.seconds = time.thread_time() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class RankZero:
    """What the recorder asks of the optimizer of rank 0: `StepSource`."""

    parts: Sequence[ParameterPart | None]
    first_step: int
    name: str = "0"
    optimizer_class: str = "SGD"
    settings: dict[str, Any] = field(default_factory=lambda: {"lr": 0.1})

    @property
    def infos(self) -> tuple[ParameterInfo, ...]:
        return tuple(part.info for part in self.parts if part is not None)

    @property
    def present(self) -> list[bool]:
        return [True] * len(self.parts)

    @property
    def step(self) -> int:
        return self.first_step


def shared_step(number: int, step: int, *, copies: bool) -> SharedStep:
    mine = numbers_of(kind_of(0), number, copies=copies)
    numbers = StepNumbers(
        step=step,
        wall_time=time.time(),
        stats={},
        with_gradient=None,
        learning_rates=(0.1,),
        loss_scale=None,
        skipped=False,
        late=LateNumbers(loss=mine.loss, clip_fault=None, clippings=()),
        own=OwnTotals(norm=mine.norm, nonfinite=mine.nonfinite, before_reduction=copies),
    )
    return SharedStep(numbers=numbers, mine=mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What one step cost; processor seconds, bytes and seconds.

    Of rank 0, but for what is of the busiest relay, of the one in the middle, and of all others together.
    """

    gathering: float
    all: float
    read: int
    relay: float
    relay_median: float
    relay_read: int
    delay: float
    requests: int
    stored: int
    played: float
    wrong: list[str]
    missing: int
    unknown: bool


class Simulation:
    """One world, as rank 0 sees it, which writes a run."""

    def __init__(self, world: World, others: Others, folder: Path) -> None:
        self.world = world
        self._others = others
        self.said: list[str] = []
        self._silences = Silences()
        logging.getLogger("gradwatch").addHandler(self._silences)
        self._store = CountingStore(dist.PrefixStore(f"world{world.number}", connection(others.address)))
        self._box = CountingMailbox(0, self._store)
        if world.on_nodes:
            self._box.read_node_here()
        others.ask(world)
        self._gatherer = TimedGatherer(self._box, world.ranks, world.tree)
        self._writer = StoreWriter(folder)
        self._writer.begin_attempt({"model": "simulated"}, {})
        self._recorder = Recorder(self._writer, team=self._gatherer, at_once=True)
        beginning = self._recorder.begin("0", "SGD", {"lr": 0.1})
        own = parts("" if world.copies else "0").parts
        self._first = beginning.step
        self._recorder.admit(RankZero(parts=own, first_step=self._first), beginning)
        self._recorder.flush()
        self._record: StepRecord | None = None

    def step(self, number: int) -> StepCost:
        """Let the other ranks play a step, and record it."""
        be_patient(self.world.steps[number])
        self._others.ask(("leave", number))
        time.sleep(BETWEEN_STEPS)
        self._store.taken()
        served, self._box.read = self._others.served(), 0
        self._others.begin(("play", number))
        began = time.process_time()
        self._recorder.put_record(partial(self._made, number))
        assert self._recorder.flush(1000.0), self._recorder.fault
        done, took = time.time(), time.process_time() - began
        answers = self._others.answers()
        self.said += self._silences.taken()
        played: list[Played] = [answer[0] for answer in answers]
        relays = [one for each in played for one in each.seconds] or [0.0]
        self.said += [text for each in played for text in each.said]
        record = self._record
        return StepCost(
            gathering=self._gatherer.seconds,
            all=took,
            read=self._box.read,
            relay=max(relays),
            relay_median=statistics.median(relays),
            relay_read=max((one for each in played for one in each.read), default=0),
            delay=done - max(each.last for each in played),
            requests=self._store.taken()[0] + sum(each.store[0] for each in played),
            stored=sum(each.store[1] for each in played),
            played=sum(answer[1] for answer in answers) + self._others.served() - served,
            wrong=Expected.of(self.world, number).deviations(record),
            missing=0 if record is None or record.ranks is None else int(np.isnan(record.ranks.before_reduction).sum()),
            unknown=record is None,
        )

    def _made(self, number: int) -> StepRecord | None:
        shared = shared_step(number, self._first + number, copies=self.world.copies)
        self._record = record_of_all(shared, self._gatherer.gather(shared.mine), self._writer.attempt)
        return self._record

    def end(self, *, killed: bool = False) -> None:
        """End all ranks, by `SIGKILL` if they were killed: nothing is closed then."""
        self._others.ask(("end", killed))
        if not killed:
            assert self._recorder.close("closed")
        else:
            self._recorder.flush()
            if self._box._read_here is not None:
                self._box._read_here.unlock()
            self._writer.abort()
        logging.getLogger("gradwatch").removeHandler(self._silences)
        node_box.sweep_nodes()


def connection(address: tuple[str, int]) -> Any:
    return dist.TCPStore(*address, is_master=False)


# ------------------------------------------------------------------------ the table


def line(what: str, steps: Sequence[StepCost], first: StepCost | None) -> str:
    def middle(name: str) -> float:
        return statistics.median(getattr(step, name) for step in steps)

    def most(name: str) -> float:
        return max(getattr(step, name) for step in steps)

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = (
        f"{'':>23}"
        if first is None
        else f"{first.read / 1e6:>7.2f}{1e3 * first.gathering:>8.0f}{1e3 * first.relay:>8.0f}"
    )
    return (
        f"{what:<36}{begun}{middle('read') / 1e3:>8.0f}{1e3 * middle('gathering'):>8.2f}{1e3 * middle('all'):>8.2f}"
        f"{most('relay_read') / 1e3:>8.0f}{1e3 * middle('relay'):>7.2f}{1e3 * middle('relay_median'):>7.2f}"
        f"{middle('delay'):>8.2f}{most('delay'):>7.2f}{middle('stored') / 1e6:>8.2f}{middle('requests'):>7.0f}"
        f"{memory:>6.0f}{sum(step.unknown for step in steps):>8}/{len(steps)}{steps[-1].missing:>8}"
        f"{sum(bool(step.wrong) for step in steps):>6}{middle('played'):>8.2f}"
    )


HEAD = (
    f"{'':<36}{'rank 0, first':>15}{'relay':>8}{'rank 0, each step':>24}{'relay, each step':>22}"
    f"{'recorded after':>15}{'store, each':>15}{'':>6}{'steps':>10}{'ranks':>8}{'steps':>6}{'played':>8}\n"
    f"{'':<36}{'MB':>7}{'ms':>8}{'ms':>8}{'KB':>8}{'ms':>8}{'all':>8}{'KB':>8}{'most':>7}{'median':>7}"
    f"{'s':>8}{'worst':>7}{'MB':>8}{'asked':>7}{'MB':>6}{'unknown':>10}{'missing':>8}{'wrong':>6}{'s':>8}"
)


def run(worlds: Sequence[tuple[str, World]], others: Others) -> None:
    """Simulate the worlds, all in one run: each but the first begins after a restart. Print a line for each phase."""
    with tempfile.TemporaryDirectory() as folder:
        norms, dropped = [], []
        for what, world in worlds:
            is_last = world is worlds[-1][1]
            simulation = Simulation(world, others, Path(folder) / "run")
            costs = [simulation.step(number) for number in range(len(world.steps))]
            simulation.end(killed=not is_last)
            begin = 1
            first: StepCost | None = costs[0]
            for phase, steps in world.phases:
                print(line(what.format(PHASES[phase]), costs[begin : begin + steps], first), flush=True)
                begin, first = begin + steps, None
            expected = [Expected.of(world, number) for number in range(len(costs))]
            norms += [one.norms for one in expected if one.is_known]
            dropped.append(sum(not one.is_known for one in expected))
            say_wrong(world, costs, simulation.said)
        say_wrong_run(gradwatch.Run(Path(folder) / "run"), norms, dropped)


PHASES = {QUICK: "", SLOW: ", 1 in 20 slow by 1 s", DEAD: ", a dead node"}


def say_wrong(world: World, costs: Sequence[StepCost], said: Sequence[str]) -> None:
    """Print what a world's records and messages should not have, or lack."""
    for number, cost in enumerate(costs):
        if cost.wrong:
            print(f"WRONG at step {number}: {', '.join(cost.wrong)}")
    last = world.last_node
    expected = [f"Ranks {last[0]}-{last[-1]} have"] if DEAD in world.steps else []
    if list(said) != expected:
        print(f"WRONG: said {said}, not {expected}")


def say_wrong_run(found: gradwatch.Run, norms: Sequence[np.ndarray], dropped: Sequence[int]) -> None:
    """Print what the run on the disk should not have, or lacks."""
    table = found.ranks("norm").to_numpy()
    expected = np.full(table.shape, np.nan, np.float32)
    for row, one in zip(expected, norms, strict=False):
        row[: len(one)] = one
    if len(table) != len(norms) or not np.array_equal(table, expected, equal_nan=True):
        print(f"WRONG: the run has {table.shape} norms of steps and ranks, or others than the {len(norms)} steps had")
    if [attempt.dropped for attempt in found.attempts()] != list(dropped):
        print(f"WRONG: the run counts {[attempt.dropped for attempt in found.attempts()]} dropped steps, not {dropped}")
    if wrong := [event.message for event in found.events() if event.severity != "info"]:
        print(f"WRONG: the run has the events {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=[64, 256, 1024, 16384])
    parser.add_argument("--faults-at", type=int, nargs="*", default=[256, 1024, 16384], help="sizes with faults, too")
    parser.add_argument("--rank-0-at", type=int, nargs="*", default=[1024, 16384, 100_000], help="see the last lines")
    parser.add_argument("--machines", type=int, default=8, help="network namespaces that share the nodes")
    parser.add_argument("--store-only", action="store_true", help="leave no letters in the memory of a machine")
    parser.add_argument(
        "--line",
        type=float,
        nargs=2,
        metavar=("MS", "PERCENT"),
        help="delay between two machines, each way, and the share of packets that are lost",
    )
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a lock for each node
    logging.getLogger("gradwatch").propagate = False
    with simulated(options) as found:
        gc.freeze()
        others = Others(found)
        found[0].enter()
        where = f"{len(found)} network namespaces" if found[0].name else "no network namespaces"
        if options.line:
            where += f", {options.line[0]:g} ms and {options.line[1]:g}% loss between them"
        print(f"{PARAMETERS} parameters, {len(STATS)} statistics, every step; {os.cpu_count()} processors, {where}")
        print(f"load at the beginning {load()}", flush=True)
        print(HEAD)
        numbers = itertools.count()
        for ranks in options.ranks:
            for worlds in worlds_of(ranks, numbers, faults=ranks in options.faults_at, on_nodes=not options.store_only):
                run(worlds, others)
        for ranks in options.rank_0_at:
            world = World(number=next(numbers), ranks=ranks, phases=((QUICK, 5),), only_readers=True)
            run([(f"{ranks} ranks, rank 0 alone", world)], others)
        print("load at the end", load())
        others.close()
    sys.stdout.flush()


def worlds_of(ranks: int, numbers: Iterator[int], *, faults: bool, on_nodes: bool) -> Iterator[list[tuple[str, World]]]:
    """The trainings of one size; each list is one run."""
    make = partial(World, on_nodes=on_nodes)
    quick, slow, dead = ((phase, 3 if ranks > 2000 else 5) for phase in (QUICK, SLOW, DEAD))
    if not faults:
        yield [(f"{ranks} ranks, sharded", make(number=next(numbers), ranks=ranks, phases=(quick,)))]
        return
    fewer = ranks * 3 // 4
    yield [
        (f"{ranks} ranks, sharded{{}}", make(number=next(numbers), ranks=ranks, phases=(quick, slow, dead))),
        (f"{fewer} ranks after a restart", make(number=next(numbers), ranks=fewer, phases=(quick,))),
    ]
    yield [(f"{ranks} ranks, copies{{}}", make(number=next(numbers), ranks=ranks, phases=(quick, dead), copies=True))]


@contextlib.contextmanager
def simulated(options: argparse.Namespace) -> Iterator[list[Machine]]:
    """The machines, the last one for the store; without a right to network namespaces all are this one."""
    drawn = None if options.line is None else Line(seconds=options.line[0] / 1e3, loss=options.line[1] / 100)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(machines(options.machines + 1, drawn))
        except (OSError, subprocess.CalledProcessError):
            if drawn is not None:
                raise
            found = [Machine()] * (options.machines + 1)
        yield found


def load() -> str:
    return " ".join(f"{one:.1f}" for one in os.getloadavg())


if __name__ == "__main__":
    main()
