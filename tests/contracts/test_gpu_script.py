"""The script for machines with a GPU, gone through without one."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..scripts import load

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


def test_a_part_that_fails_lets_the_others_run(monkeypatch, capsys):
    gpu = load("gpu")

    def fails(deadline):
        raise RuntimeError("planted")

    def runs(deadline):
        deadline.left_out.append("a thing")
        print("a figure")

    monkeypatch.setattr(gpu, "_parts", lambda device, quick: {"kernel": fails, "updates": runs})
    failed = gpu.run_all(torch.device("cpu"), True, ["kernel", "updates"], 1.0, apart=False)
    told = capsys.readouterr().out
    assert failed == ["kernel"]
    assert told.index("The part kernel failed: RuntimeError: planted") < told.index("a figure")
    assert "Failed: kernel\nNot measured: a thing" in told


@pytest.mark.slow
def test_a_part_of_its_own_process_may_be_killed_or_run_out_of_time(monkeypatch, capsys, tmp_path):
    """What it printed before is kept, and the next one runs."""
    gpu = load("gpu")
    part = tmp_path / "part.py"
    part.write_text(
        "import os, sys, time\n"
        "name = sys.argv[sys.argv.index('--only') + 1]\n"
        "print('begins', name, flush=True)\n"
        "if name == 'kernel': os.abort()\n"
        "if name == 'updates': time.sleep(60)\n"
        "print('left out: [\"a thing\"]')\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(part))
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    monkeypatch.setattr(gpu, "PARTS", dict.fromkeys(gpu.PARTS, 1.0))
    run = functools.partial(gpu.run_all, torch.device("cpu"), True, apart=True)
    assert run(["kernel", "waits"], 1.0) == ["kernel"]
    assert run(["updates", "waits"], 0.05) == ["updates"]
    told = capsys.readouterr().out
    assert "The part kernel failed: RuntimeError: it ended with -6" in told
    assert "The part updates failed: RuntimeError: it was stopped after its time" in told
    assert told.count("begins waits") == 1
    assert "Not measured: waits (no time left)" in told
