"""Starts trainings by several processes, as a user does with torchrun."""

import os
import subprocess
import sys
from pathlib import Path

from . import training

ROOT = Path(__file__).parents[2]


def torchrun(*arguments, cwd=None, ranks=2, timeout=300, **environment):
    """Run a script by several processes, with one thread each; whatever becomes of it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def train(folder, ranks, names, timeout, **environment):
    """Train scenarios of `training`, one after the other, each into a run of its name in the folder."""
    done = torchrun(training.__file__, folder, *names, ranks=ranks, timeout=timeout, **environment)
    (folder / "stderr").write_text(done.stderr)
    said = [f"{path.name}: {path.read_text()}" for path in folder.glob("*.error")]
    assert done.returncode == 0, "\n".join([*said, done.stderr[-3000:]])
    return folder
