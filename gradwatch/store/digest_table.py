"""Reads table digest: thousands of steps in short, where they are intact."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Iterator

from gradwatch.record import STATS
from gradwatch.store.columns import Columns, equals
from gradwatch.store.digest_bytes import unpack_layers, unpack_steps
from gradwatch.store.integrity import Integrity
from gradwatch.store.layer_digests import LayerDigest
from gradwatch.store.opening import Database


def digested_steps(
    db: Database, integrity: Integrity, optimizer: str | None = None
) -> Iterator[tuple[int, Columns, int]]:
    """The last id, the columns and the bits of parts of each intact digest, of one optimizer or all, by id."""
    for number, owner, blob in _digests(db, integrity, "steps", optimizer):
        try:
            columns, parts = unpack_steps(blob)
        except ValueError:
            continue
        ids = columns["id"]
        right = len(ids) and ids[0] > 0 and ids[-1] == number and (ids[1:] > ids[:-1]).all()
        if right and equals(columns["optimizer"], owner).all():
            yield number, columns, parts


def digested_layers(
    db: Database, integrity: Integrity, optimizer: str, stats: Collection[str] = STATS
) -> Iterator[tuple[int, LayerDigest]]:
    """Each intact digest of an optimizer that has layers, with its last id, and the maxima of these statistics."""
    for number, _, blob in _digests(db, integrity, "layers", optimizer):
        with contextlib.suppress(ValueError):
            yield number, unpack_layers(blob, stats)


def _digests(db: Database, integrity: Integrity, part: str, optimizer: str | None) -> Iterator[tuple[int, str, bytes]]:
    """Id, optimizer and one blob of each intact row of table ``digest``; one that is not is left out uncounted.

    They are read one by one, for together they may be large.
    """
    if not db.layout.has_table("digest"):
        return
    which = "" if optimizer is None else "where optimizer = ?"
    names = () if optimizer is None else (optimizer,)
    # The checksums lie behind the blobs, which SQLite passes through to reach them.
    row = f"select optimizer, steps_crc, {part}, layers_crc, crc, row_crc from digest not indexed where last_id = ?"
    for (number,) in db.rows(f"select last_id from digest not indexed {which} order by last_id", *names):
        # None, if a writer has put another in its place meanwhile.
        for owner, steps_crc, blob, layers_crc, crc, bound in db.rows(row, number):
            if not integrity.is_intact_digest(number, (number, owner, steps_crc, layers_crc), crc, bound):
                continue
            if type(blob) is bytes and zlib.crc32(blob) == (steps_crc if part == "steps" else layers_crc):
                yield number, owner, blob
