"""Starts trainings by several processes: as a user does with torchrun, or as forks, which need not import PyTorch."""

import atexit
import contextlib
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..prepared import Prepared
from . import training

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "pytest",
    "torch.distributed.fsdp",
    "torch.distributed.launcher.api",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
)


def torchrun(*arguments, cwd=None, ranks=2, timeout=300, **environment):
    """Run a script by several processes, with one thread each; whatever becomes of it.

    torchrun itself is a fork; its processes import PyTorch, as a user's do.
    """
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1"} | environment
    return _server().run(command, cwd or Path.cwd(), timeout, **environment)


@functools.cache
def _server():
    """The process that all forks of these tests come from: it imports what takes longer than most of the trainings."""
    found = Prepared(IMPORTED)
    atexit.register(found.close)
    return found


def forks(script, *arguments, ranks, timeout, **environment):
    """Run a script by several processes with torchrun's variables; return their exit codes and all stderr.

    One that fails ends the others, as torchrun would: they wait for it.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(ranks)} | environment
    until = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        shared = {"MASTER_PORT": str(stack.enter_context(kept_port()))} | shared
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        processes = [
            _server().start(
                [script, *arguments],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            while any(one.poll() is None for one in processes):
                if time.monotonic() > until or any(one.poll() for one in processes):
                    break
                time.sleep(0.05)
        finally:
            for one in processes:
                if one.poll() is None:
                    one.kill()
                one.wait()
        said = []
        for log in logs:
            log.seek(0)
            said.append(log.read())
    return [one.returncode for one in processes], "".join(said)


@contextlib.contextmanager
def kept_port():
    """A port for a store of torch.distributed. Until the end no other process is given it as a free one.

    The socket is bound and does not listen, so that the store, which reuses addresses too, can listen there.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", 0))
        port = one.getsockname()[1]
        if sys.platform != "linux":
            one.close()  # there the store could not bind the port of this socket
        yield port


def train(folder, ranks, names, timeout, **environment):
    """Train scenarios of `training`, one after the other, each into a run of its name in the folder."""
    codes, stderr = forks(Path(training.__file__), str(folder), *names, ranks=ranks, timeout=timeout, **environment)
    (folder / "stderr").write_text(stderr)
    said = [f"{path.name}: {path.read_text()}" for path in folder.glob("*.error")]
    assert codes == [0] * ranks, "\n".join([str(codes), *said, stderr[-3000:]])
    return folder
