"""A sample of benchmarks/random_loops.py: trainings are the same bit for bit, whatever of gradwatch fails."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..scripts import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = range(28)


@pytest.fixture(scope="module")
def random_loops():
    return load("random_loops")


@pytest.fixture
def without_frameworks(random_loops, monkeypatch):
    """Loops of frameworks have tests of their own; their imports would take longer than the sample."""
    monkeypatch.setattr(random_loops, "FRAMEWORKS", {"plain": 1})


def test_a_sample_of_loops_is_the_same_with_and_without_the_recording(random_loops, without_frameworks, tmp_path):
    level = logging.getLogger("gradwatch").level
    came_to_pass = 0
    for number in SAMPLE:
        plan = random_loops.draw(7, number, 0.0)
        differences, fired = random_loops.compare(plan, tmp_path / str(number))
        assert differences == [], plan
        came_to_pass += fired
    assert came_to_pass > len(SAMPLE) / 4, "faults came to pass"
    assert logging.getLogger("gradwatch").level == level


def test_the_comparison_sees_a_training_that_is_changed(random_loops, without_frameworks, tmp_path, monkeypatch):
    """The instrument itself: one weight that moves by its last bit is seen."""
    plan = dataclasses.replace(
        random_loops.draw(7, 0, 0.0), shape="usual", precision="float32", end="completed", fault="none", bad={}
    )
    assert random_loops.compare(plan, tmp_path / "same")[0] == []

    def state(training, original=random_loops.Training.state):
        found = original(training)
        return [found[0] * (1 if training.is_reference else 1 + 2**-23), *found[1:]]

    monkeypatch.setattr(random_loops.Training, "state", state)
    (difference,) = random_loops.compare(plan, tmp_path / "changed")[0]
    assert difference.startswith("state:")


def test_a_loop_is_drawn_again_from_its_seed(random_loops):
    assert [random_loops.draw(3, n, 0.1) for n in range(20)] == [random_loops.draw(3, n, 0.1) for n in range(20)]
    assert random_loops.draw(3, 0, 0.1) != random_loops.draw(4, 0, 0.1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.slow
def test_exit_codes_are_the_same(random_loops, tmp_path):
    """One loop for each framework and end that the first twenty have."""
    first = {}
    for number in range(20):
        plan = random_loops.draw(3, number, 1.0)
        first.setdefault((plan.framework, plan.end), str(number))
    assert len(first) >= 8
    script = [sys.executable, str(BENCHMARKS / "random_loops.py"), "--processes", "1", "--seed", "3", "--only"]
    done = subprocess.run([*script, *first.values()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
