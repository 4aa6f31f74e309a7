"""The command line in this process."""

import gc
import sys
from dataclasses import dataclass

import pytest

from gradwatch.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


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
