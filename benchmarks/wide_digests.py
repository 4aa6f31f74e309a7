"""What digests of the layers of a wide model cost: `python benchmarks/wide_digests.py [PARAMETERS...]`.

For each number of parameters a process makes one digest of 4,096 rows with all four statistics, as the recorder's
thread does: the time of that thread for a row, the longest time for one row (norms are counted in bins now and then),
the memory that it takes, and the bytes of the digest beside those of the rows. Then it reads 24 such digests, as
100,000 steps have, and asks for the medians: the part of a first paint that grows with the parameters. No store is
written: 100,000 steps of 10,000 parameters would take 16 GB.

    python benchmarks/wide_digests.py | tee benchmarks/wide_digests.txt
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from gradwatch.store.digests import ROWS, LayerDigester, Sketch, pack_layers, unpack_layers

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


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]))
        return
    print("parameters  a row, CPU  longest row    memory  bytes more  reading 24")
    for parameters in map(int, sys.argv[1:] or ["150", "1000", "4096", "10000", "32768"]):
        subprocess.run([sys.executable, __file__, "--one", str(parameters)], check=True)


if __name__ == "__main__":
    main()
