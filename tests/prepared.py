"""Runs many scripts in processes of their own, each forked from one that has imported PyTorch already.

Importing takes most of the time of a short script. A fork has nothing but the imports: no thread, no recording.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CAN_FORK = sys.platform == "linux"

_SERVER = """
import json, os, runpy, sys
import torch, torch.nn, gradwatch, gradwatch.cli, gradwatch.analysis.run
for module in sys.argv[1:]:
    __import__(module)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
os.chdir(task["folder"])
for number, name in enumerate((os.devnull, "stdout.txt", "stderr.txt")):
    opened = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, number)
    os.close(opened)
os.environ.update(task["environment"])
sys.argv = task["command"]
if sys.argv[0] == "-m":
    del sys.argv[0]
    sys.path[0] = task["folder"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Prepared:
    """Starts scripts one after the other. Where a process can't be forked safely, each is one from the start."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        command = [sys.executable, "-c", _SERVER, *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``python COMMAND`` in a folder; the command is a script or ``-m MODULE``, and arguments."""
        if not CAN_FORK:
            env = os.environ | environment
            return subprocess.run(
                [sys.executable, *command],
                capture_output=True,
                text=True,
                cwd=folder,
                timeout=120,
                env=env,
                check=False,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        task = {"command": list(command), "folder": str(folder), "environment": environment}
        print(json.dumps(task), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        out, err = (self._taken(folder / name) for name in ("stdout.txt", "stderr.txt"))
        return subprocess.CompletedProcess(list(command), code, out, err)

    @staticmethod
    def _taken(file: Path) -> str:
        text = file.read_text(encoding="utf-8")
        file.unlink()
        return text

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)


@contextlib.contextmanager
def prepared(*modules: str) -> Iterator[Prepared]:
    """A `Prepared` whose scripts find these modules imported as well."""
    found = Prepared(modules)
    try:
        yield found
    finally:
        found.close()
