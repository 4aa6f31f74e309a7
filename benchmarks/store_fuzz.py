"""Flips bits of a store, one at a time, and counts what a reader makes of each.

`python benchmarks/store_fuzz.py` prints the table of store_fuzz.txt: every bit of page 1, which holds the schema,
and of the pages of the small tables, and 5,000 bits elsewhere. A flip may end in

- same: all that is read is right and complete (most bits of a page are unused);
- counted: what is read is right, and what is missing is counted as damaged;
- refused: an error with a slug.

It must never end in a made-up value, in a loss that is not counted, in another exception or in a read that hangs.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gradwatch.errors import GradwatchError
from gradwatch.record import RANK_STATS, STATS, WEIGHT_STATS, Event, ParameterInfo, RankStats
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.store.schema import PAGE_SIZE
from gradwatch.testing import replaced, steady, stream

OUTCOMES = ("same", "counted", "refused", "made up", "lost", "traceback", "slow")
VERSION = "1"
"""Of the detectors."""
SLOW = 1.0  # seconds of the processor
SCHEMA_PAGE = "schema (page 1)"
SMALL_TABLES = ("meta", "attempt", "optimizer", "parameter", "event", "detector_state")


STEPS = 16
"""Few, for the store is read whole some 70,000 times."""


def example(folder: Path) -> Path:
    """A run with something in every table."""
    names = tuple(ParameterInfo(name=f"layer{i}.weight", shape=(8, 8)) for i in range(6))
    norms = replaced(steady(STEPS), {12: 50.0, 14: float("nan")})
    losses = [1 / (1 + i) for i in range(STEPS)]
    records = stream(norms, parameters=names, shares=[0.2] * 6, max_norm=1.0, losses=losses)
    some = np.ones(4, np.float32)
    ranks = RankStats(
        norm=some, nonfinite=0 * some, differing=0 * some, differs_in=np.nan * some, before_reduction=some
    )
    spike = Event(step=12, kind="spike", severity="warning", message="a spike", observed=50.0, limit=4.0, rank=3)
    nonfinite = Event(step=14, kind="nonfinite", severity="critical", message="NaN", observed=math.nan, until=15)
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Synthetic", "every": "1"}, {"0": ("SGD", {"lr": 0.1, "momentum": 0.9})})
    writer.add_parameters("0", names)
    last = writer.append([replace(record, ranks=ranks) for record in records], [spike, nonfinite])
    writer.save_detector_state("0", last, VERSION, [bytes(range(64))])
    writer.end_attempt("closed")
    return folder


def contents(run: Path) -> tuple[dict[str, list[Any]], int]:
    """All that a reader gives, as lists of comparable values by table, and the number of damaged rows."""
    found: dict[str, list[Any]] = {}
    with StoreReader(run) as reader:
        columns = reader.step_columns()
        found["step"] = [repr(row) for row in zip(*columns.values(), strict=True)]
        found["meta"] = sorted(reader.meta().items())
        found["attempt"] = list(map(repr, reader.attempts()))
        found["optimizer"] = [(name, kind, repr(reader.settings(name))) for name, kind in reader.optimizers().items()]
        found["parameter"] = [info for info in reader.parameters("0") if not info.name.startswith("(damaged")]
        found["event"] = list(map(repr, reader.events()))
        found["detector_state"] = [state for state in [reader.detector_state("0", VERSION)] if state is not None]
        for stat in (*STATS, *WEIGHT_STATS):
            ids, table = reader.layer_table(stat, "0")
            found[stat] = [(*key, row.tobytes()) for key, row in zip(ids.tolist(), table, strict=True)]
        for stat in RANK_STATS:
            ids, table = reader.rank_table(stat, "0")
            found[f"rank_{stat}"] = [(*key, row.tobytes()) for key, row in zip(ids.tolist(), table, strict=True)]
        found["record"] = [record.step for record in reader.records("0")]
        return found, reader.damaged_rows


def outcome(run: Path, right: dict[str, list[Any]]) -> tuple[str, str]:
    """What a reader makes of a store, and some detail."""
    began = time.process_time()  # the machine may have other work
    try:
        found, damaged = contents(run)
    except GradwatchError as error:
        result = "refused", error.slug
    except Exception as error:
        result = "traceback", f"{type(error).__name__}: {error}"
    else:
        result = compare(found, right, damaged)
    return ("slow", result[0]) if time.process_time() - began > SLOW else result


def compare(found: dict[str, list[Any]], right: dict[str, list[Any]], damaged: int) -> tuple[str, str]:
    short = {table for table, rows in found.items() if len(rows) < len(right[table])}
    for table, rows in found.items():
        more = len(rows) > len(right[table])  # a row that is there twice
        if more or not (set(rows) <= set(right[table]) or _are_beginnings(rows, right[table])):
            return "made up", table
    if not short:
        return "same", ""
    return ("counted", "") if damaged else ("lost", ", ".join(sorted(short)))


def _are_beginnings(rows: list[Any], right: list[Any]) -> bool:
    """Whether rows of a statistic lack their last parameters alone, as where the names of these are lost."""
    if not all(isinstance(row, tuple) and isinstance(row[-1], bytes) for row in [*rows, *right]):
        return False
    whole = {row[:-1]: row[-1] for row in right}
    return all(whole.get(row[:-1], b"").startswith(row[-1]) for row in rows)


def pages(file: Path) -> dict[str, list[int]]:
    """The pages of each table, by walking its tree: from 0, as SQLite numbers them from 1."""
    db = sqlite3.connect(f"file:{file}?immutable=1", uri=True)
    data = file.read_bytes()
    found: dict[str, list[int]] = {"schema": [0]}
    for name, root in db.execute("select tbl_name, rootpage from sqlite_master where rootpage > 0"):
        found.setdefault(name, []).extend(_tree(data, root - 1))
    db.close()
    return found


def _tree(data: bytes, page: int) -> Iterator[int]:
    yield page
    at = page * PAGE_SIZE
    if data[at] not in (2, 5):  # no interior page
        return
    for cell in range(int.from_bytes(data[at + 3 : at + 5], "big")):
        pointer = int.from_bytes(data[at + 12 + 2 * cell : at + 14 + 2 * cell], "big")
        yield from _tree(data, int.from_bytes(data[at + pointer : at + pointer + 4], "big") - 1)
    yield from _tree(data, int.from_bytes(data[at + 8 : at + 12], "big") - 1)


def bits(data: bytes, page: int) -> Iterator[int]:
    """The bits of a page, but those within a stretch of unused bytes."""
    begin = page * PAGE_SIZE
    for byte in range(begin, begin + PAGE_SIZE):
        if any(data[max(begin, byte - 8) : byte + 9]):
            yield from range(8 * byte, 8 * byte + 8)


def run_flips(
    file: Path, data: bytes, chosen: Sequence[int], right: dict[str, list[Any]]
) -> tuple[Counter[str], list[str]]:
    """The number of flips by outcome, and what went wrong where."""
    counts: Counter[str] = Counter()
    faults = []
    descriptor = os.open(file, os.O_WRONLY)
    for bit in chosen:
        byte = data[bit // 8]
        os.pwrite(descriptor, bytes([byte ^ 1 << bit % 8]), bit // 8)
        result, detail = outcome(file.parent, right)
        os.pwrite(descriptor, bytes([byte]), bit // 8)
        counts[result] += 1
        if result in OUTCOMES[3:]:
            faults.append(f"byte {bit // 8} bit {bit % 8}: {result} ({detail})")
    os.close(descriptor)
    return counts, faults


def chosen_bits(file: Path, elsewhere: int) -> dict[str, list[int]]:
    """The bits to flip: all of page 1 and of each small table, and some of the other pages."""
    data, by_table = file.read_bytes(), pages(file)
    rows = {SCHEMA_PAGE: list(bits(data, 0))}
    for table in SMALL_TABLES:
        rows[table] = [bit for page in by_table[table] for bit in bits(data, page)]
    covered = {page for table in ("schema", *SMALL_TABLES) for page in by_table[table]}
    rest = [bit for page in range(len(data) // PAGE_SIZE) if page not in covered for bit in bits(data, page)]
    rows["elsewhere"] = random.Random(0).sample(rest, min(elsewhere, len(rest)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elsewhere", type=int, default=5000, help="bits outside of page 1 and the small tables")
    parser.add_argument("--one-of", type=int, default=1, help="flip one of this many bits of the other rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = example(Path(folder) / "run")
        file = run / FILE_NAME
        right, damaged = contents(run)
        assert not damaged
        print(f"{'':18}{'bits':>9}" + "".join(f"{name:>11}" for name in OUTCOMES), flush=True)
        every_fault = []
        for name, chosen in chosen_bits(file, options.elsewhere).items():
            some = chosen[:: options.one_of] if name == SCHEMA_PAGE else chosen
            counts, faults = run_flips(file, file.read_bytes(), some, right)
            print(f"{name:18}{len(some):9,}" + "".join(f"{counts[one]:11,}" for one in OUTCOMES), flush=True)
            every_fault += [f"{name}: {fault}" for fault in faults]
        print("\n".join(every_fault))


if __name__ == "__main__":
    main()
