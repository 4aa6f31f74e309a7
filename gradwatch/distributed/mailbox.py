"""Messages between ranks, through the key-value store of torch.distributed. Each rank has a box, which one rank reads.

Neither side blocks: a sender writes a key and goes on, and a receiver that finds no message goes on too. The letters of
ranks on the machine of their reader stay in its memory (`NodeBox`), because the store is one for the whole training.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import secrets
import time
import weakref
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from gradwatch.distributed.node_box import ROOM, NodeBox, Whereabouts
from gradwatch.distributed.world import rank_and_world_size
from gradwatch.store.processes import started_at

logger = logging.getLogger("gradwatch")

MAX_UNREAD = 64
"""Unread messages of one rank after which it keeps further ones to itself."""

KEPT_UNASKED = 4
"""Messages of one rank that stay in the store. When there are twice as many, it asks whether they were read."""

NODE_WITHIN = 2.0
"""Seconds in which the first messages wait for the reader on the same machine to say where it reads."""

OLD_WORLD_PAUSE = 0.2
"""Seconds between two looks whether rank 0 has begun, where the store still names an earlier training."""

SELDOM = 1.0
"""Seconds between two requests for an announcement that is rarely made, in the first `SELDOM_AT_FIRST` seconds."""

SELDOM_AT_FIRST, SELDOM_AT_MOST = 10.0, 10
"""Later the pause grows with the time since the first request, up to so many times as long: most are made soon."""

RANK_0_WITHIN = 30.0
"""Seconds in which rank 0 has to attach as well."""

WORLD = "gradwatch/world"
"""The key under which rank 0 names the training that its mailboxes are of."""

_recording_numbers = itertools.count()
_worlds: weakref.WeakKeyDictionary[Any, dict[int, str]] = weakref.WeakKeyDictionary()  # by store and rank


def _own_connection(store: Any) -> Any:
    """The same store by a connection of its own, where it has connections: a wait holds up no other request."""
    return store.clone() if hasattr(store, "clone") else store


class Rank0NotAttached(TimeoutError):
    """Rank 0 has opened no mailbox in this training."""


def world_of(store: Any, rank: int, seconds: float) -> str:
    """The name of the training whose processes share this store now.

    torchrun may keep the store when it starts the workers again, and its count of restarts tells too little: a new node
    begins at 0, and the others do not count its arrival. So rank 0 makes a name, and the others wait for it. A name is
    of an earlier training if that had another number of ranks, or if an earlier process of this rank has read it. It
    counts as such, too, if it was made before this process started: torchrun starts no worker before all earlier ones
    have ended. Clocks of two machines may differ, so that such a name is taken after all if no other one comes in time.

    Raises:
        Rank0NotAttached: there is no name after so many seconds.
    """
    known = _worlds.setdefault(store, {})
    if rank not in known:
        known[rank] = _world_as_begun(_own_connection(store), rank, rank_and_world_size()[1], seconds)
    return known[rank]


def _world_as_begun(store: Any, rank: int, ranks: int, seconds: float) -> str:
    if rank == 0:
        name = secrets.token_hex(8)
        store.set(WORLD, json.dumps([name, ranks, time.time()]))
        return name
    old = early = ""
    began = started_at()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not store.check([WORLD]):
            with contextlib.suppress(Exception):  # the type of a timeout differs from store to store
                store.wait([WORLD], timedelta(seconds=left))
            continue
        told = json.loads(store.get(WORLD))
        name, of_ranks, made = str(told[0]), int(told[1]), float(told[2])
        if name not in (old, early) and of_ranks == ranks:
            if began is not None and made < began:
                early = name
            elif _is_first_to_read(store, name, rank):
                return name
        old = name
        time.sleep(OLD_WORLD_PAUSE)
    if early == old != "" and _is_first_to_read(store, early, rank):
        return early
    raise Rank0NotAttached(f"gradwatch is not attached in rank 0 within {seconds:.0f} seconds")


def _is_first_to_read(store: Any, name: str, rank: int) -> bool:
    return bool(store.add(f"gradwatch/{name}/rank/{rank}", 1) == 1)


class Mailbox:
    """The messages of one recording.

    Every rank starts its recordings in the same order, which is how they find the same mailbox; a rank that missed some
    skips the mailboxes that are closed. One thread at a time may use it. It has a connection of its own, so that a slow
    message can't delay a collective of the training.

    Attributes:
        rank: of this process.
    """

    def __init__(self, rank: int, store: Any = None) -> None:
        """Open the mailbox; raises whatever torch.distributed raises if it has no key-value store.

        ``store`` is one that no other recording uses; None takes a part of the training's own.

        Raises:
            Rank0NotAttached: rank 0 has opened none in time.
        """
        self.rank = rank
        self._sent = 0
        self._in_store: deque[int] = deque()  # letters of this rank that may be in the store
        self._received: dict[int, int] = {}  # by rank
        self._asked: dict[str, tuple[float, float]] = {}  # when first and when last, by announcement
        self._is_closed = False
        self._read_here: NodeBox | None = None  # the letters of other ranks of this machine
        self._node: _NodeRoute | None = None  # the way to a reader on this machine
        self._origin: Any = store
        self._store: Any = store
        if store is None:
            self._open_in_training()

    def _open_in_training(self) -> None:
        import torch.distributed as dist

        # The store of rank 0 may be the server: holding it keeps the server alive until the last message is read.
        self._origin = dist.distributed_c10d._get_default_store()
        store = _own_connection(self._origin)
        world = world_of(self._origin, self.rank, RANK_0_WITHIN)
        while True:
            self._prefix = f"gradwatch/{world}/{next(_recording_numbers)}"
            self._store = dist.distributed_c10d.PrefixStore(self._prefix, store)
            if self.rank == 0 or self.announced("closed") is None:
                break

    @property
    def host(self) -> str | None:
        """The machine that has the training's key-value store, if that is a server."""
        store = getattr(self._origin, "_underlying_non_prefix_store", self._origin)
        return getattr(store, "host", None)

    def store_of_group(self) -> Any:
        """The key-value store by which a process group of this recording connects, over a connection of its own."""
        import torch.distributed as dist

        store = _own_connection(self._origin)
        return dist.distributed_c10d.PrefixStore(f"{self._prefix}/group", store)

    def announce(self, name: str, value: object) -> None:
        """Publish a JSON value to all ranks, once."""
        self._store.set(name, json.dumps(value))

    def announced(self, name: str, seconds: float = 0.0) -> Any:
        """The value announced under ``name``, after waiting up to ``seconds`` for it; None if there is none."""
        if seconds > 0:
            try:
                self._store.wait([name], timedelta(seconds=seconds))
            except Exception:  # the type of a timeout differs from store to store
                return None
        elif not self._store.check([name]):
            return None
        return json.loads(self._store.get(name))

    def all_announced(self, names: Sequence[str], seconds: float) -> list[Any] | None:
        """The values announced under all these names, after waiting up to ``seconds``; None if one is missing."""
        try:
            self._store.wait(list(names), timedelta(seconds=seconds))
        except Exception:  # the type of a timeout differs from store to store
            return None
        return [json.loads(one) for one in self._store.multi_get(list(names))]

    def withdraw(self, name: str) -> None:
        """Announce a value no more."""
        self._store.delete_key(name)

    def seldom_announced(self, name: str) -> Any:
        """The same, without asking the store more often than every `SELDOM` seconds; None in between.

        A store has one server, which all ranks of the training ask.
        """
        now = time.monotonic()
        first, last = self._asked.get(name, (now, -math.inf))
        if now < last + SELDOM * min(max(1.0, (last - first) / SELDOM_AT_FIRST), SELDOM_AT_MOST):
            return None
        self._asked[name] = first, now
        return self.announced(name)

    def look_whether_closed(self) -> bool:
        """Whether the letters of this rank are no longer read."""
        if self._node is not None and self._node.box is not None and self._node.box.is_open():
            return False
        self._is_closed = self._is_closed or self.seldom_announced("closed") is not None
        return self._is_closed

    # ------------------------------------------------------------------------------------- the machine's memory

    def read_node_here(self) -> None:
        """Read the letters of other ranks of this machine in its memory."""
        self._read_here = NodeBox.serve()
        self.announce(f"node/{self.rank}", "" if self._read_here is None else str(self._read_here.folder))

    def close_node(self, *, forward: bool) -> None:
        """Read nothing in the machine's memory any more; with ``forward`` the store gets what was not read."""
        box, self._read_here = self._read_here, None
        if box is None:
            return
        box.close()
        for rank, letter in list(box.left()):
            if forward:
                self._forward(box, rank, letter)
            box.delete(rank, letter)
        box.remove()

    def send_on_node(self, reader: int) -> None:
        """The letters of this rank stay in the machine's memory, if their reader is on the same machine."""
        self._node = _NodeRoute(reader)

    def _route(self) -> NodeBox | None:
        """Where the next letter stays in the machine's memory; None if it goes through the store."""
        route = self._node
        if route is None:
            return None
        if not route.is_known and (folder := self.announced(f"node/{route.reader}")) is not None:
            route.is_known = True
            route.box = NodeBox.find(folder) if folder else None
            if route.box is None:
                _say_apart(self.rank, route.reader)
            elif not route.begins(self.rank, self._sent):
                route.box = None
        return route.box

    def leave_nothing_on_node(self) -> None:
        """Nobody hears this rank any more: remove its folder, and its letters from that of a reader that is gone."""
        self.close_node(forward=False)
        if self._node is not None and self._node.box is not None:
            self._leave_node(self._node.box, forward=False)

    def _leave_node(self, box: NodeBox, *, forward: bool = True) -> None:
        """Send through the store from now on. What was not read goes there too, if its reader has ended."""
        assert self._node is not None
        self._node.box = None
        box.withdraw(self.rank)
        if box.is_open():
            return
        unread = [letter for rank, letter in box.left() if rank == self.rank]
        try:
            for letter in unread if forward else ():
                self._forward(box, self.rank, letter)
        finally:  # the store may have ended with the reader
            for letter in unread:
                box.delete(self.rank, letter)
            box.remove()

    def _forward(self, box: NodeBox, rank: int, letter: int) -> None:
        message = box.read(rank, letter)
        if message:
            self._store.set(f"{rank}/{letter}", message)

    # ------------------------------------------------------------------------------------- sending

    def look_whether_full(self) -> bool:
        """Whether the next message has to wait.

        That is so while `MAX_UNREAD` of this rank are unread, and before its reader's place is known.
        """
        box = self._route()
        if self._node is not None and self._node.is_waiting(NODE_WITHIN):
            return True
        self._forget_read(keep=KEPT_UNASKED)
        if box is not None and self._sent >= MAX_UNREAD and box.has(self.rank, self._sent - MAX_UNREAD):
            return True
        return len(self._in_store) >= MAX_UNREAD

    def send(self, message: bytes) -> None:
        """Leave a message, which is not empty, in the box of this rank."""
        box = self._route()
        if box is None or not self._put_on_node(box, message):
            self._put_in_store(message)
        self._sent += 1

    def _put_on_node(self, box: NodeBox, message: bytes) -> bool:
        assert self._node is not None
        try:
            if not self._node.find_room(box, self.rank, len(message)):
                self._put_in_store(message)
                box.put(self.rank, self._sent, b"")
            else:
                box.put(self.rank, self._sent, message)
                self._node.unread.append((self._sent, len(message)))
        except OSError as error:
            logger.debug("a letter finds no room in %s", box.folder, exc_info=error)
            self._leave_node(box)
            return False
        if not box.is_open():  # it ended, perhaps before it saw this letter
            self._leave_node(box)
        return True

    def _put_in_store(self, message: bytes) -> None:
        self._store.set(f"{self.rank}/{self._sent}", message)
        if self._sent not in self._in_store:
            self._in_store.append(self._sent)

    def _forget_read(self, keep: int) -> None:
        """Delete the letters of this rank that were read, but for the last few: those are rarely read yet.

        Letters are read in order, so one request is enough for several that were all read.
        """
        if len(self._in_store) < 2 * keep:
            return
        newest = self._in_store[-keep - 1]
        all_read = not self._store.get(f"{self.rank}/{newest}")
        while len(self._in_store) > keep:
            key = f"{self.rank}/{self._in_store[0]}"
            if not all_read and self._store.get(key):
                return
            self._store.delete_key(key)
            self._in_store.popleft()

    # ------------------------------------------------------------------------------------- receiving

    def read_from(self, rank: int, letter: int) -> None:
        """Go on with this letter of a rank, after all before it were read elsewhere."""
        self._received[rank] = letter

    def letters_read(self, rank: int) -> int:
        """The number of letters of a rank that were read, here or elsewhere."""
        return self._received.get(rank, 0)

    def receive(self, rank: int) -> bytes | None:
        """Take the next message out of the box of a rank; None if there is none yet."""
        found = self.receive_from_all([rank])
        return None if found is None else found[0]

    def receive_from_all(self, ranks: Sequence[int]) -> list[bytes] | None:
        """Take the next message out of the box of each rank; None, and nothing is taken, unless all have one.

        However many ranks there are, they take three requests to the store. A message that was read is emptied, and its
        sender deletes it: the store has no request that deletes several.
        """
        letters = {rank: self.letters_read(rank) for rank in ranks}
        box = self._read_here
        found = Whereabouts() if box is None else box.whereabouts(letters)
        far = [f"{rank}/{letter}" for rank, letter in letters.items() if rank not in found.here]
        if found.coming or (far and not self._store.check(far)):
            return None
        return list(self._take(letters, found.here).values())

    def receive_what_is_there(self, ranks: Sequence[int]) -> dict[int, bytes]:
        """Take the next message out of the box of each rank that has one.

        That takes a request to the store for each rank that is elsewhere, and two more if any has a message.
        """
        letters = {rank: self.letters_read(rank) for rank in ranks}
        found = Whereabouts() if self._read_here is None else self._read_here.whereabouts(letters)
        far = letters.keys() - found.here - found.coming
        there = found.here | {rank for rank in far if self._store.check([f"{rank}/{letters[rank]}"])}
        return self._take({rank: letter for rank, letter in letters.items() if rank in there}, found.here)

    def _take(self, letters: dict[int, int], here: frozenset[int]) -> dict[int, bytes]:
        """Take these letters, all of which are there: ``here`` are the ranks that have theirs in the memory."""
        box = self._read_here
        messages = {} if box is None else {rank: box.read(rank, letters[rank]) for rank in here}
        keys = {rank: f"{rank}/{letter}" for rank, letter in letters.items() if not messages.get(rank)}
        if keys:
            messages |= dict(zip(keys, self._store.multi_get(list(keys.values())), strict=True))
            self._store.multi_set(list(keys.values()), [""] * len(keys))
        for rank, letter in letters.items():
            if box is not None and rank in here:
                box.delete(rank, letter)
            self._received[rank] = letter + 1
        return {rank: messages[rank] or b"" for rank in letters}


def _say_apart(rank: int, reader: int) -> None:
    """A rank shares no memory with its reader. torchrun may have said that both are on one machine."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    is_one_node = told.isdecimal() and int(told) > 1 and rank // int(told) == reader // int(told)
    logger.log(
        logging.WARNING if is_one_node else logging.DEBUG,
        "Rank %d shares no memory with rank %d. Its numbers take the training's key-value store (no-shared-memory)",
        rank,
        reader,
    )


class _NodeRoute:
    """The way to a reader that may be on this machine.

    Attributes:
        reader: its rank.
        box: where it reads; None while that is not known, and where it is not on this machine.
        is_known: whether the reader has said where it reads.
        unread: number and size of the letters in the box that may be unread.
    """

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self.box: NodeBox | None = None
        self.is_known = False
        self.unread: deque[tuple[int, int]] = deque()
        self._since = time.monotonic()

    def is_waiting(self, seconds: float) -> bool:
        """Whether the reader may still say in time where it reads."""
        return not self.is_known and time.monotonic() < self._since + seconds

    def begins(self, rank: int, letter: int) -> bool:
        """Say that the letters of this rank are here from now on; False if that can't be said."""
        assert self.box is not None
        try:
            self.box.begin(rank, letter)
        except OSError:
            return False
        return True

    def find_room(self, box: NodeBox, rank: int, size: int) -> bool:
        """Whether a letter of this size may be left beside those that are unread."""
        while self.unread and not box.has(rank, self.unread[0][0]):
            self.unread.popleft()
        return sum(bytes_ for _, bytes_ in self.unread) + size <= ROOM
