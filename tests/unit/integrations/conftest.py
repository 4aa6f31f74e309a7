import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def run_recorded(tmp_path):
    """Record a script as the run "run" of the test's folder; it may import the tests here. Returns what it printed."""

    def run(script):
        (tmp_path / "train.py").write_text(textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, "-m", "gradwatch", "run", "--run", "run", "train.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
