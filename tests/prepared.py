"""Runs scripts in processes that are forked from one which has imported PyTorch already.

Importing PyTorch takes most of the time of a short script. A fork is a process like any other, with its own memory,
exit code and signals, and finds nothing but the imports done: no thread, no recording. It is not used where a test is
about imports, threads, the interpreter's own options or variables that libraries read as they are imported; and each
command and each way to start a script is also tested in a process that has imported nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CAN_FORK = sys.platform == "linux"

READ_AT_IMPORT = (
    *("PYTHON", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "CUDA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "LD_", "MALLOC_"),
    "GRADWATCH_FUSED",
)
"""Names of variables begin with these that Python or a library reads before a script runs."""

SET_BY_SCIKIT_LEARN = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""It sets these in its process as it is imported; a script behaves alike with and without them."""

SERVER = Path(__file__).with_name("prepared_server.py")
MODULES = (
    "torch",
    "torch._dynamo",
    "gradwatch.recording.attach",
    "gradwatch.script.discover",
    "gradwatch.script.doctor",
    "gradwatch.cli.commands.run",
    "gradwatch.cli.commands.doctor",
    "gradwatch.analysis.run",
)
"""What most scripts import: PyTorch imports `torch._dynamo` as the first optimizer is made."""


class _Forked(subprocess.Popen[Any]):
    """A `subprocess.Popen` whose process another one forks and waits for."""

    _asked: socket.socket

    def __init__(self, asked: socket.socket, command: Sequence[str], **options: Any) -> None:
        self._asked = asked
        super().__init__(command, **options)

    def _execute_child(self, *arguments: Any) -> None:  # how Popen starts a process, after it has made the pipes
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        task = {
            "command": [os.fspath(part) for part in given["args"]],
            "folder": str(Path(given["cwd"] or ".").absolute()),
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "session": bool(given["start_new_session"]),
        }
        pipes = [(given["p2cread"], given["p2cwrite"]), (given["c2pwrite"], given["c2pread"])]
        pipes.append((given["errwrite"], given["errread"]))
        streams = [number if theirs == -1 else theirs for number, (theirs, _) in enumerate(pipes)]
        socket.send_fds(self._asked, [json.dumps(task).encode()], streams)
        self.pid = json.loads(self._asked.recv(2**10))
        self._child_created = True
        devnull = getattr(self, "_devnull", -1)
        for theirs in {theirs for theirs, ours in pipes if ours != -1} | {devnull}:
            if theirs != -1:
                os.close(theirs)
        self._closed_child_pipe_fds = True

    def _try_wait(self, flags: int) -> tuple[int, int]:  # in place of os.waitpid: it is a child of the server
        self._asked.send(json.dumps({"wait": self.pid, "flags": flags}).encode())
        pid, status = json.loads(self._asked.recv(2**10))
        return pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Prepared:
    """Starts scripts. Where a process can't be forked safely, each is one from the start."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._environment = _read_at_import(os.environ)
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno()), *MODULES, *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def start(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start ``python COMMAND``: a script, ``-m MODULE`` or ``-c CODE``, and arguments; options as of Popen."""
        environment = options.get("env")
        if not CAN_FORK or _read_at_import(os.environ if environment is None else environment) != self._environment:
            return subprocess.Popen([sys.executable, *command], **options)
        return _Forked(self._asked, [os.fspath(part) for part in command], **options)

    def run(
        self, command: Sequence[str | Path], folder: Path, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python COMMAND`` in a folder to its end, without input; it may take `timeout` seconds."""
        with self.start(
            command,
            cwd=folder,
            env=os.environ | environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def close(self) -> None:
        self._asked.close()
        self._server.wait(60)


def _read_at_import(environment: Any) -> dict[str, str]:
    read = (item for item in environment.items() if item[0].startswith(READ_AT_IMPORT))
    return {name: value for name, value in read if name not in SET_BY_SCIKIT_LEARN}


@contextlib.contextmanager
def prepared(*modules: str) -> Iterator[Prepared]:
    """A `Prepared` whose scripts find these modules imported as well."""
    found = Prepared(modules)
    try:
        yield found
    finally:
        found.close()


@functools.cache
def forked() -> Prepared:
    """The one that the tests of this process share."""
    found = Prepared()
    atexit.register(found.close)
    return found
