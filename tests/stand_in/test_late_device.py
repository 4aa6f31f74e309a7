"""Trainings on an accelerator that is not CUDA: a stand-in with late copies, streams and events, on any machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .device import build

CASES = Path(__file__).with_name("cases")


@pytest.fixture(scope="module")
def library(request):
    try:
        return build(request.config.cache.mkdir("late_device"))
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.slow  # the compiler takes 20 seconds and more
@pytest.mark.parametrize("case", sorted(path.name for path in CASES.glob("test_*.py")))
def test_the_cases_hold_on_it(library, case):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(CASES / case)]
    done = subprocess.run(
        command,
        env=os.environ | {"GRADWATCH_LATE_DEVICE": str(library)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
