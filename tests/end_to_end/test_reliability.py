"""A killed process: what is in the store is a beginning of the run, and right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
CODE = """
import json, sys
sys.path.insert(0, {folder!r})
import reliability
print(json.dumps([vars(one) for one in reliability.kills(15, seed=1, after=200)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and kills by a signal")
def test_after_kill_9_the_store_is_a_beginning_of_the_steps_and_right():
    """In a process of its own, for it forks."""
    code = CODE.format(folder=str(FOLDER))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 15
    assert all(one["opened"] and one["whole"] and one["right"] for one in found), found
    assert sum(one["recorded"] for one in found) > 100, "kills after 200 steps, however long those take"
    assert max(one["missing"] for one in found) < 5, "a second, on a processor that has nothing else to do"
