"""Makes what is costly once for all workers of a run of the tests.

pytest-xdist's workers each have fixtures of their own, so a fixture of a module whose tests two workers share is made
twice. What a fixture makes is therefore kept in a folder that all workers know; the first that asks makes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name, filled by `make`; others wait meanwhile. One that failed is made again, elsewhere."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    done = base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            folder = factory.mktemp(name)
            make(folder)
            done.write_text(str(folder))
        return Path(done.read_text())
