"""Creates the file of a store, brings an older one up to date, and tells whether another process writes to it."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import RunInUse
from gradwatch.store.checksums import row_crc, values_crc
from gradwatch.store.limits import MAX_MISSING
from gradwatch.store.processes import is_alive
from gradwatch.store.rows import with_checksums
from gradwatch.store.schema import (
    APPLICATION_ID,
    ATTEMPT_COLUMNS,
    CRC_FROM,
    EVENT_COLUMNS,
    FILE_NAME,
    OPTIMIZER_COLUMNS,
    PAGE_SIZE,
    PARAMETER_COLUMNS,
    ROW_COUNTS,
    ROW_CRC_FROM,
    SCHEMA_VERSION,
    Layout,
    create_statements,
    upgrade_statements,
)

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "fuse.", "9p", "afs", "beegfs")


def create(path: Path) -> bool:
    """Make an empty store beside its place and move it there whole, so that no process ever finds a part of one.

    Returns:
        False if another process was first.
    """
    aside = path.with_name(f"{FILE_NAME}.{os.getpid()}.new")
    aside.unlink(missing_ok=True)
    db = sqlite3.connect(aside, isolation_level=None)
    try:
        db.execute(f"pragma page_size = {PAGE_SIZE}")
        db.execute("begin immediate")
        for statement in create_statements():
            db.execute(statement)
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        db.execute("commit")
    except BaseException:
        db.close()
        aside.unlink(missing_ok=True)
        raise
    db.close()
    return _put_in_place(aside, path)


def _put_in_place(aside: Path, path: Path) -> bool:
    """Give a file its name, unless another file has it that is not empty."""
    if path.exists() and path.stat().st_size == 0:
        path.unlink()
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:
        aside.replace(path)  # a file system without links
        return True
    finally:
        aside.unlink(missing_ok=True)
    return True


def upgrade(db: sqlite3.Connection, layout: Layout) -> None:
    """Bring a store of an older layout up to date, within a transaction of the caller's.

    Rows of steps stay as they are. Rows of small tables that are intact get the checksums that they lack.
    """
    for statement in upgrade_statements(layout):
        db.execute(statement)
    if not layout.has_row_crc:
        (last,) = db.execute("select coalesce(max(id), 0) from step").fetchone()
        for key, is_new in ((CRC_FROM, not layout.has_crc), (ROW_CRC_FROM, True)):
            if is_new:
                db.execute("insert or replace into meta (key, value) values (?, ?)", (key, str(last + 1)))
        began_with_crc = layout.has_crc and not db.execute("select 1 from meta where key = ?", (CRC_FROM,)).fetchone()
        for table, columns in _SMALL_TABLES.items():
            _add_checksums(db, table, columns, began_with_crc)
        put_row_counts(db, last)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")


_SMALL_TABLES = {
    "meta": ("key", "value"),
    "attempt": ATTEMPT_COLUMNS,
    "optimizer": OPTIMIZER_COLUMNS,
    "parameter": PARAMETER_COLUMNS,
    "event": EVENT_COLUMNS,
}


def _add_checksums(db: sqlite3.Connection, table: str, columns: Sequence[str], began_with_crc: bool) -> None:
    """Give the rows of a small table row_crc, and crc to those from before it, but nothing to a damaged row."""
    key = {"event": ("id",), "parameter": ("optimizer", "position")}.get(table, columns[:1])
    selected = ", ".join(f'"{name}"' for name in (*key, *columns, "crc"))
    which = " and ".join(f'"{name}" = ?' for name in key)
    for row in db.execute(f"select {selected} from {table}").fetchall():
        own, values, crc = row[: len(key)], list(row[len(key) : -1]), row[-1]
        is_new = table == "meta" and values[0] == ROW_CRC_FROM
        expected = _expected_crc(table, values)
        if expected is None or (crc is None and began_with_crc and not is_new) or crc not in (None, expected):
            continue
        number = own[0] if table in ("event", "attempt") else 0
        bound = row_crc(table, number, expected)
        db.execute(f"update {table} set crc = ?, row_crc = ? where {which}", (expected, bound, *own))


def _expected_crc(table: str, values: list[Any]) -> int | None:
    """What crc should be; None if the row holds what no row does."""
    if table == "event" and values[-1] is None:
        values = values[:-1]
    try:
        return values_crc(values)
    except TypeError:
        return None


def count_rows(db: sqlite3.Connection, last_step_id: int) -> str:
    """How many rows the small tables and step have, as the JSON object that table ``meta`` holds."""
    tables = ("meta", "attempt", "optimizer", "parameter", "detector_state", "event")
    counts = {table: db.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
    return json.dumps(counts | {"step": last_step_id})


def put_row_counts(db: sqlite3.Connection, last_step_id: int) -> None:
    """Write how many rows there are now, so that rows lost later are noticed."""
    # First the row itself, for it counts.
    db.execute("insert or ignore into meta (key) values (?)", (ROW_COUNTS,))
    _, value, crc, bound = with_checksums("meta", (ROW_COUNTS, count_rows(db, last_step_id)))
    db.execute("update meta set value = ?, crc = ?, row_crc = ? where key = ?", (value, crc, bound, ROW_COUNTS))


def next_id(db: sqlite3.Connection) -> int:
    """The id of the next step. It is not taken from a damaged row, whose id may be any."""
    rows = db.execute("select id, crc, row_crc from step order by id desc limit 10").fetchall()
    if not rows:
        return 1
    bound = [number for number, crc, given in rows if isinstance(crc, int) and given == row_crc("step", number, crc)]
    last = int(rows[0][0])
    return last + 1 if not bound or last - bound[0] < MAX_MISSING else int(bound[0]) + 1


def refuse_if_in_use(db: sqlite3.Connection, path: Path) -> None:
    """Raise `RunInUse` if another live process writes to the store."""
    query = "select pid, host, process from attempt where ended is null order by attempt desc limit 1"
    row = db.execute(query).fetchone()
    # Within one process the open watches know better than a table that a fault left unfinished.
    if row is None or row[0] == os.getpid() or row[1] != socket.gethostname() or not is_alive(row[0], row[2]):
        return
    raise RunInUse(
        f"{str(path.parent)!r} is being written by process {row[0]}. Give this training a run of"
        " its own, or end the other one first."
    )


def on_network_file_system(folder: Path) -> bool:
    """Whether a folder lies where SQLite's write-ahead log is not safe, as far as the system tells."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return False
    here = str(folder.resolve())
    mounts = [line.split(" ") for line in lines]
    inside = [m for m in mounts if here == m[1] or here.startswith(m[1].rstrip("/") + "/")]
    return bool(inside) and max(inside, key=lambda m: len(m[1]))[2].startswith(_NETWORK)
