"""The command line in this process, and runs for it to read."""

import gc
import math
import sys
from dataclasses import dataclass

import pytest

from gradwatch.cli import main
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


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


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `gradwatch` with some arguments, 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradwatch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    yield run
    gc.unfreeze()  # what `open_run` froze, so that libraries can free it at the end
