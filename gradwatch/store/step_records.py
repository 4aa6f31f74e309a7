"""Reads whole records: a row of table step with the blobs that belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradwatch.record import ParameterInfo, StepRecord
from gradwatch.store.integrity import Integrity
from gradwatch.store.limits import is_count
from gradwatch.store.opening import Database
from gradwatch.store.schema import BLOBS, CHECKSUMS, STEP_COLUMNS
from gradwatch.store.small_tables import select
from gradwatch.store.values import record_of


def records(
    db: Database, integrity: Integrity, optimizer: str, infos: tuple[ParameterInfo, ...], after: int, chunk: int
) -> Iterator[StepRecord]:
    """The intact records of an optimizer in the order of their ids, from the first after ``after``.

    They are read ``chunk`` ids at a time, so that a writer without a write-ahead log is not kept waiting.
    """
    names, query = _query(db)
    while True:
        # The ids are consecutive but for lost rows, and a damaged id may be anywhere.
        ((first,),) = db.rows("select min(id) from step not indexed where id > ?", after)
        if not is_count(first) or first <= after:  # damaged pages may lead in a circle
            return
        after = first - 1
        # Ids that are written after this query come with the next one.
        ((newest,),) = db.rows("select max(id) from step not indexed where id <= ?", after + chunk)
        last = max(first, newest or first)
        for values in db.rows(query, after, last, optimizer):
            row = dict(zip(names, values, strict=True))
            record = record_of(row, infos) if integrity.is_intact(row) else None
            if record is not None:
                yield record
            else:
                integrity.left_out.add(("step", row["id"]))
        after = last


def _query(db: Database) -> tuple[Sequence[str], str]:
    """The names of the columns of a step with all its blobs, and the query from one id to another."""
    step = ("id", *STEP_COLUMNS, *CHECKSUMS)
    blobs = [(table, (*stats, *CHECKSUMS)) for table, stats in BLOBS.items()]
    names = [*step, *(f"{table}.{name}" for table, columns in blobs for name in columns)]
    selected = ", ".join(select(db, table, columns) for table, columns in [("step", step), *blobs])
    tables = [table for table in BLOBS if db.layout.has_table(table)]
    joined = " ".join(f"left join {table} not indexed on {table}.id = step.id" for table in tables)
    which = "step.id > ? and step.id <= ? and step.optimizer = ?"
    return names, f"select {selected} from step not indexed {joined} where {which} order by step.id"
