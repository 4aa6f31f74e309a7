"""Messages between ranks, through the key-value store of torch.distributed. Each rank has a box, which one rank reads.

Neither side blocks: a sender writes a key and goes on, and a receiver that finds no message goes on too.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

MAX_UNREAD = 64
"""Unread messages of one rank after which it keeps further ones to itself."""

_recording_numbers = itertools.count()


def rank_and_world_size() -> tuple[int, int]:
    """The rank of this process and the number of ranks; (0, 1) without an initialized process group.

    >>> rank_and_world_size()
    (0, 1)
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


class Mailbox:
    """The messages of one recording.

    Every rank starts its recordings in the same order, which is how they find the same mailbox; a rank that missed some
    skips the mailboxes that are closed. One thread at a time may use it. It has a connection of its own, so that a slow
    message can't delay a collective of the training.

    Attributes:
        rank: of this process.
    """

    def __init__(self, rank: int) -> None:
        """Open the mailbox; raises whatever torch.distributed raises if it has no key-value store."""
        import torch.distributed as dist

        # The store of rank 0 may be the server: holding it keeps the server alive until the last message is read.
        self._origin: Any = dist.distributed_c10d._get_default_store()
        store = self._origin.clone() if hasattr(self._origin, "clone") else self._origin
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may keep its store across restarts
        while True:
            self._prefix = f"gradwatch/{restarts}/{next(_recording_numbers)}"
            self._store: Any = dist.distributed_c10d.PrefixStore(self._prefix, store)
            if rank == 0 or self.announced("closed") is None:
                break
        self.rank = rank
        self._sent = 0
        self._received: dict[int, int] = {}  # by rank

    def store_of_group(self) -> Any:
        """The key-value store by which a process group of this recording connects, over a connection of its own."""
        import torch.distributed as dist

        store = self._origin.clone() if hasattr(self._origin, "clone") else self._origin
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

    def is_full(self) -> bool:
        """Whether `MAX_UNREAD` messages of this rank are unread, so that the next one has to wait."""
        return self._sent >= MAX_UNREAD and bool(self._store.check([f"{self.rank}/{self._sent - MAX_UNREAD}"]))

    def send(self, message: bytes) -> None:
        """Leave a message in the box of this rank."""
        self._store.set(f"{self.rank}/{self._sent}", message)
        self._sent += 1

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

        Many ranks are asked at once in two requests to the store, and one more for each to delete what was read.
        """
        keys = [f"{rank}/{self.letters_read(rank)}" for rank in ranks]
        if not self._store.check(keys):
            return None
        messages: list[bytes] = self._store.multi_get(keys)
        for rank, key in zip(ranks, keys, strict=True):
            self._store.delete_key(key)
            self._received[rank] = self.letters_read(rank) + 1
        return messages
