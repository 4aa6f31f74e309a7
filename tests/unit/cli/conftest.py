"""Runs for the command line to read."""

import math

import pytest

from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A healthy run, and one that explodes at step 701."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    write_run(folder / "good", stream(steady(800), losses=[1.0 / (1 + i) for i in range(800)], max_norm=1.1))
    norms = [*steady(700, spread=0.3), 10.0, 300.0, 1e6, math.inf, math.nan]
    write_run(folder / "bad", stream(norms))
    return folder


@pytest.fixture(scope="session")
def ended_runs(tmp_path_factory):
    """A run of 3 steps, and one that an exception ended."""
    folder = tmp_path_factory.mktemp("ended") / "runs"
    write_run(folder / "short", stream(steady(3)))
    write_run(folder / "died", stream(steady(100)))
    writer = StoreWriter(folder / "died")
    writer.begin_attempt({}, {})
    writer.end_attempt("exception ValueError")
    return folder
