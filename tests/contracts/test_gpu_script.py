"""The script for machines with a GPU, gone through without one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_script_runs_to_its_end_and_says_what_it_did_not_measure():
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no figure below is of a GPU" in done.stdout
    assert done.stdout.count("ms  x") == 6
    told = done.stdout[done.stdout.index("Not measured: ") :]
    for part in ("tests", "synchronisations", "memory"):
        assert f"{part} (no CUDA device)" in told
    assert "NCCL (no second GPU)" in told
