"""Digests of many rows, with which a reader can summarise a long run without reading every row.

A digest covers consecutive rows of one optimizer. Its first blob has the columns of table ``step``. The second has for
each parameter of table ``layer``: the largest values of every `GROUP` rows, where and how large the largest norm was,
and a sketch of all norms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwatch.record import STATS, StepRecord
from gradwatch.store.columns import with_nan
from gradwatch.store.digest_bytes import pack_layers, pack_steps
from gradwatch.store.layer_digests import LayerDigester
from gradwatch.store.schema import STEP_COLUMNS

ROWS = 4096
"""Rows of a digest."""

MANY_ROWS = 50_000
"""Rows from which on digests are read, so that the last rows of a run get one as well, however few they are."""

MANY_ENTRIES = 50_000_000
"""Norms of layers from which on digests are read in place of them: of a wide model, those of fewer rows."""

WIDE = 1024
"""Parameters of a wide model; of one with more, the last rows without a digest are long to read."""

EARLY_ROWS = 1024
"""Rows of a wide model after which the digest that is begun is written, in place of the one written before; whole
groups."""

MAX_PARAMETERS = 32_768
"""Of a model whose layers are digested: those of a larger one would take the recorder's thread 2 ms a step, and
a quarter of a gigabyte."""

_NAMES = ("id", *STEP_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A row of table ``digest``; ``layers`` is None where some row has none, or others than the rest.

    It takes the place of the one with the last id ``replaces``, which covers the first of its rows.
    """

    last_id: int
    optimizer: str
    steps: bytes
    layers: bytes | None
    replaces: int | None = None


class RecordDigester:
    """Digests the records of one optimizer as they are written."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._layers: LayerDigester | None = None
        self._is_uniform = True  # every row so far has layers with the same statistics
        self._written: int | None = None  # the last id of the digest of the first of these rows

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= ROWS

    @property
    def is_due(self) -> bool:
        """Whether the rows so far get a digest until there are more: of a wide model they take long to read."""
        return self._parameters > WIDE and not len(self._rows) % EARLY_ROWS

    @property
    def _parameters(self) -> int:
        return 0 if self._layers is None else self._layers.parameters

    def is_of_many(self, rows: int) -> bool:
        """Whether readers of so many rows would read digests."""
        return rows >= MANY_ROWS or rows * self._parameters >= MANY_ENTRIES

    def add(self, row: tuple[Any, ...], record: StepRecord) -> None:
        """Add a record with its row of table ``step``."""
        self._rows.append(row)
        layers = record.layers
        if layers is None or not self._is_uniform or len(layers.parameters) > MAX_PARAMETERS:
            self._is_uniform, self._layers = False, None
            return
        stats = tuple(stat for stat in STATS if getattr(layers, stat) is not None)
        if self._layers is None:
            self._layers = LayerDigester(len(layers.parameters), stats)
        if (self._layers.parameters, self._layers.stats) != (len(layers.parameters), stats):
            self._is_uniform, self._layers = False, None
            return
        self._layers.add([np.asarray(getattr(layers, stat), np.float32) for stat in stats])

    def finish(self) -> Digest:
        """The digest of the rows so far, of which there must be one. More rows may follow.

        Raises:
            ValueError: they can't be digested, for example as every row has a text of its own.
        """
        columns: dict[str, Sequence[Any]] = dict(zip(_NAMES, zip(*self._rows, strict=True), strict=False))
        last_id, replaces = int(columns["id"][-1]), self._written
        found = Digest(
            last_id=last_id,
            optimizer=columns["optimizer"][0],
            steps=pack_steps(with_nan(columns)),
            layers=None if self._layers is None else pack_layers(self._layers.finish()),
            replaces=None if replaces == last_id else replaces,
        )
        self._written = last_id
        return found


class RecordDigesters:
    """A digester for each optimizer, begun anew whenever a digest is complete."""

    def __init__(self) -> None:
        self._of: dict[str, RecordDigester] = {}

    def add(self, records: Iterable[StepRecord], rows: Iterable[tuple[Any, ...]]) -> list[Digest]:
        """Add records with their rows of table ``step``; return the digests to write with them."""
        found = []
        for record, row in zip(records, rows, strict=True):
            digester = self._of.setdefault(record.optimizer, RecordDigester())
            digester.add(row, record)
            if digester.is_full:
                del self._of[record.optimizer]
            if digester.is_full or digester.is_due:
                with contextlib.suppress(ValueError):  # without one, readers read the rows
                    found.append(digester.finish())
        return found

    def finish(self, rows: int) -> list[Digest]:
        """The digests of all rows that wait for more, if readers of a run of so many rows would read them."""
        found = []
        for digester in self._of.values():
            if digester.is_of_many(rows):
                with contextlib.suppress(ValueError):
                    found.append(digester.finish())
        self._of.clear()
        return found

    def forget(self, optimizer: str) -> None:
        """Let go of the rows of an optimizer that makes no more steps; they stay without a digest."""
        self._of.pop(optimizer, None)

    def clear(self) -> None:
        """Forget all rows so far: they were not written."""
        self._of.clear()
