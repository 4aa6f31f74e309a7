"""Letters from every process to rank 0, through the key-value store of torch.distributed.

To leave one there waits for nobody, and whoever looks for one that has not come goes on.
"""

from __future__ import annotations

import itertools
import json
import os
from datetime import timedelta
from typing import Any

UNREAD = 64  # letters of one process that may lie there; then it keeps them to itself
_numbers = itertools.count()


def rank_and_world_size() -> tuple[int, int]:
    """The rank of this process and how many there are; (0, 1) where it trains alone.

    >>> rank_and_world_size()
    (0, 1)
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


class Mailbox:
    """The letters of one recording. Every process makes its recordings in the same order; one that missed some goes on.

    Used by one thread at a time; over a connection of its own, so that nothing here can hold up a
    collective of the training.
    """

    def __init__(self, rank: int) -> None:
        """Raises whatever torch.distributed does where it has no store."""
        import torch.distributed as dist

        # The one of rank 0 may be the server: to hold it keeps that alive until the last letter is read.
        self._origin: Any = dist.distributed_c10d._get_default_store()
        store = self._origin.clone() if hasattr(self._origin, "clone") else self._origin
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may keep its store over them
        while True:
            self._store: Any = dist.distributed_c10d.PrefixStore(f"gradwatch/{restarts}/{next(_numbers)}", store)
            if rank == 0 or self.announced("closed") is None:
                break
        self._rank = rank
        self._sent = 0
        self._read: dict[int, int] = {}

    def announce(self, name: str, value: object) -> None:
        """Tell all processes something, once."""
        self._store.set(name, json.dumps(value))

    def announced(self, name: str, seconds: float = 0.0) -> Any:
        """What was announced, waiting for it so long; None: nothing."""
        if seconds > 0:
            try:
                self._store.wait([name], timedelta(seconds=seconds))
            except Exception:  # what it raises differs from store to store
                return None
        elif not self._store.check([name]):
            return None
        return json.loads(self._store.get(name))

    def is_full(self) -> bool:
        """Whether so many letters of this process are still unread that the next has to wait."""
        return self._sent >= UNREAD and bool(self._store.check([f"{self._rank}/{self._sent - UNREAD}"]))

    def send(self, letter: bytes) -> None:
        """Leave a letter."""
        self._store.set(f"{self._rank}/{self._sent}", letter)
        self._sent += 1

    def receive(self, rank: int) -> bytes | None:
        """The next letter of a process, which is then gone; None: there is none yet."""
        key = f"{rank}/{self._read.get(rank, 0)}"
        if not self._store.check([key]):
            return None
        letter: bytes = self._store.get(key)
        self._store.delete_key(key)
        self._read[rank] = self._read.get(rank, 0) + 1
        return letter
