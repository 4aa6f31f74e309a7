"""What digests of the layers of a wide model cost: `python benchmarks/wide_digests.py [PARAMETERS...]`.

For each number of parameters a process makes one digest of 4,096 rows with all four statistics, as the recorder's
thread does: the time of that thread for a row, the longest time for one row (norms are counted in bins now and then),
the memory that it takes, and the bytes of the digest beside those of the rows. Then it reads 24 such digests, as
100,000 steps have, and asks for the medians: the part of a first paint that grows with the parameters. No store is
written: 100,000 steps of 10,000 parameters would take 16 GB.

    python benchmarks/wide_digests.py | tee benchmarks/wide_digests.txt

`python benchmarks/wide_digests.py --growing [PARAMETERS [ROWS]]` writes two stores by turns, in a folder of its own:
one gets a digest every 4,096 rows, the other one that grows every 1,024. It prints the processor's time of a row and
the bytes of each. With 10,000 parameters and 8,192 rows it needs 3 GB.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter, digests
from gradwatch.store.digest_bytes import pack_layers, unpack_layers
from gradwatch.store.digests import ROWS
from gradwatch.store.layer_digests import LayerDigester
from gradwatch.store.sketch import Sketch

STATS = ("norm", "abs_max", "nonfinite", "zeros")
DIGESTS = 24


def rows_of(parameters: int, count: int = 128) -> list[list[np.ndarray]]:
    """Rows as in any_length.py."""
    rng = np.random.default_rng(0)
    level = np.exp(rng.normal(size=parameters)).astype(np.float32)
    norms = level * np.exp(0.2 * rng.standard_normal((count, parameters), np.float32))
    norms *= np.exp(0.2 * rng.standard_normal((count, 1), np.float32))
    zeros = rng.integers(0, 9, (count, parameters)).astype(np.float32)
    nonfinite = np.zeros(parameters, np.float32)
    return [[norm, norm / 8, nonfinite, zero] for norm, zero in zip(norms, zeros, strict=True)]


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def busy(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def one(parameters: int) -> None:
    rows = rows_of(parameters)
    before = peak()
    digester = LayerDigester(parameters, STATS)
    took = [busy(partial(digester.add, rows[at % len(rows)])) for at in range(ROWS)]
    blob = pack_layers(digester.finish())
    memory = peak() - before
    share = len(blob) / (ROWS * parameters * 4 * len(STATS))

    def read() -> None:
        found = [unpack_layers(blob, ("norm",)) for _ in range(DIGESTS)]
        np.concatenate([digest.maxima["norm"] for digest in found])
        Sketch.merged([digest.sketch for digest in found]).quantile(0.5, parameters)

    print(
        f"{parameters:>10,}{1e3 * sum(took) / ROWS:>10.3f} ms{1e3 * max(took):>12.0f} ms{memory:>10.0f} MB"
        f"{share:>10.2%}{busy(read):>12.2f} s",
        flush=True,
    )


def growing(parameters: int, rows: int, at_once: int = 64) -> None:
    """Two stores that are written by turns, so that what else the machine does meets both."""
    infos = tuple(ParameterInfo(name=f"p{at}", shape=(64, 64)) for at in range(parameters))
    values = [LayerStats(parameters=infos, **dict(zip(STATS, row, strict=True))) for row in rows_of(parameters)]
    early = {"every 4,096 rows": 10**9, "growing": digests.EARLY_ROWS}
    took = dict.fromkeys(early, 0.0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("ANY_LENGTH")) as folder:
        writers = {name: StoreWriter(Path(folder) / name[:5]) for name in early}
        for writer in writers.values():
            writer.begin_attempt({}, {"0": ("AdamW", {})})
            writer.add_parameters("0", infos)
        for begin in range(0, rows, at_once):
            records = [
                StepRecord(step=at, wall_time=float(at), total_norm=1.0, layers=values[at % len(values)])
                for at in range(begin, begin + at_once)
            ]
            order = list(writers) if begin // at_once % 2 else list(writers)[::-1]
            for name in order:
                digests.EARLY_ROWS = early[name]
                took[name] += busy(partial(writers[name].append, records))
        for name, writer in writers.items():
            writer.end_attempt("closed")
            size = writer.path.stat().st_size
            print(f"{parameters:>10,}  {name:<18}{1e3 * took[name] / rows:>8.3f} ms a row{size / 1e6:>10.1f} MB")


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--growing"]:
        growing(*map(int, sys.argv[2:] or ["10000", "8192"]))
        return
    print("parameters  a row, CPU  longest row    memory  bytes more  reading 24")
    for parameters in map(int, sys.argv[1:] or ["150", "1000", "4096", "10000", "32768"]):
        subprocess.run([sys.executable, __file__, "--one", str(parameters)], check=True)


if __name__ == "__main__":
    main()
