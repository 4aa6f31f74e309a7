"""A recording in a notebook: cells that run again, an interrupt, and a kernel that is restarted. `make notebook`."""

import contextlib
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from gradwatch import Run

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

PATIENCE = 120.0  # seconds, on a machine that has much else to do
ATTACH = """
import torch, gradwatch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
made = globals().get("made", 0)
def train(steps):
    global made
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        made += 1
watch = gradwatch.attach(model, optimizer, {run!r}, recorder={recorder!r})
"""


class Kernel:
    """A kernel as a notebook has it."""

    def __init__(self):
        self.manager, self.client = manager.start_new_kernel(startup_timeout=PATIENCE, kernel_name="python3")

    def run(self, code):
        """Run a cell; return the name of its error, and what it printed."""
        said = []
        reply = self.client.execute_interactive(code, output_hook=said.append, timeout=PATIENCE)["content"]
        return reply.get("ename"), "".join(one["content"]["text"] for one in said if one["msg_type"] == "stream")

    def interrupted(self, code):
        """Interrupt a cell while it runs; return the name of its error."""
        self.client.execute(code)
        time.sleep(1.0)
        self.manager.interrupt_kernel()
        return self.client.get_shell_msg(timeout=PATIENCE)["content"].get("ename")

    def restart(self, *, now):
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=PATIENCE)


@pytest.fixture
def kernel():
    opened = Kernel()
    yield opened
    opened.client.stop_channels()
    opened.manager.shutdown_kernel(now=True)


def writer_of(run):
    with contextlib.closing(sqlite3.connect(run / "gradwatch.db")) as db:
        return db.execute("select pid from attempt order by attempt desc").fetchone()[0]


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(
    ("recorder", "now", "reason"), [("process", False, "exit"), ("process", True, "killed"), ("thread", False, "exit")]
)
def test_a_notebook_records_through_cells_an_interrupt_and_a_restart(kernel, tmp_path, recorder, now, reason):
    run = tmp_path / "run"
    attach = ATTACH.format(run=str(run), recorder=recorder)
    assert kernel.run(attach) == (None, "")
    assert kernel.run("train(10)") == (None, "")
    assert kernel.run(attach)[0] == "RunInUse", "a cell that runs again says that the run is being recorded"
    assert kernel.run("watch.close()") == (None, "")
    assert kernel.run(attach)[0] is None, "and after close() goes on with it"
    writer = writer_of(run)
    assert kernel.interrupted("train(10**9)") == "KeyboardInterrupt"
    assert is_running(writer), "an interrupt ends the cell and not the recording"
    error, printed = kernel.run("train(5)\nprint(made)")
    assert error is None
    kernel.restart(now=now)
    deadline = time.monotonic() + PATIENCE
    while is_running(writer):
        assert time.monotonic() < deadline, "the recorder ends with the kernel"
        time.sleep(0.05)
    found = Run(run)
    steps = found.steps().index.tolist()
    assert steps == list(range(len(steps)))
    # The interrupt may have come between a step and its count.
    assert len(steps) - int(printed) in (0, 1)
    assert found.summary().ended == reason
    assert kernel.run(attach)[0] is None, "the new kernel goes on with the run"
    assert kernel.run("train(2)\nwatch.close()")[0] is None
    assert len(Run(run).steps()) == len(steps) + 2
