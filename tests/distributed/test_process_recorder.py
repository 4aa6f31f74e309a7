"""Trainings by several processes whose recorders are processes: the same run, and what is left when a process dies."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.record import STATS, UPDATE_STATS

from . import launching

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

PATIENCE = 60.0  # seconds, on a machine that has much else to do
QUICK = ["ddp_heard", "fsdp2_clipped"]
MORE = ["ddp", "hsdp", "tp", "pipeline", "expert_parallel", "uneven", "uneven_elsewhere", "joined", "accumulated"]


@pytest.fixture(
    scope="module", params=[pytest.param((2, QUICK), id="2"), pytest.param((4, MORE), id="4", marks=pytest.mark.slow)]
)
def runs(request, tmp_path_factory):
    """The same trainings with the thread and with the process."""
    ranks, names = request.param
    folders = {}
    for recorder in ("thread", "process"):
        folders[recorder] = tmp_path_factory.mktemp(recorder)
        launching.train(folders[recorder], ranks, names, 500, RECORDER=recorder)
    return folders, names


def in_order(table):
    return table.sort_index(axis=1)


def test_the_process_records_what_the_thread_records(runs):
    """Parameters that only some ranks hold stand in the order in which they are heard, and so do the terms of sums."""
    folders, names = runs
    for name in names:
        process, thread = Run(folders["process"] / name), Run(folders["thread"] / name)
        found, expected = process.steps(), thread.steps()
        assert len(expected) >= 6
        for column in set(expected) - {"wall_time"}:
            if expected[column].dtype == float:
                np.testing.assert_allclose(found[column], expected[column], rtol=1e-14, err_msg=f"{name} {column}")
            else:
                np.testing.assert_array_equal(found[column], expected[column], err_msg=f"{name} {column}")
        assert set(process.parameters()) == set(thread.parameters())
        for stat in STATS:
            assert in_order(process.layers(stat)).equals(in_order(thread.layers(stat))), (name, stat)
        for stat in UPDATE_STATS:
            assert in_order(process.updates(stat)).equals(in_order(thread.updates(stat))), (name, stat)
        for stat in ("norm", "nonfinite", "differing"):
            assert process.ranks(stat).equals(thread.ranks(stat)), (name, stat)
        assert process.summary().ended == "closed"
        assert process.meta() == thread.meta()


# ------------------------------------------------------------------------------------- deaths

SCRIPT = """
import os, signal, struct, sys, time, torch, torch.distributed as dist
from pathlib import Path
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import gradwatch

folder, who, what, store = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
os.dup2(os.open(folder / f"stderr{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)  # of its recorder, too
torch.set_num_threads(1)
method = "env://" if store == "tcp" else f"file://{folder}/store"
dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
torch.manual_seed(0)
network = DistributedDataParallel(nn.Linear(3, 1))
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
watch = gradwatch.attach(network, optimizer, folder / "run", ranks=True, recorder="process")
(child,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
(folder / f"recorder{rank}").write_text(child)
made = os.open(folder / f"made{rank}", os.O_CREAT | os.O_WRONLY)
generator = torch.Generator().manual_seed(rank)
for step in range(40):
    optimizer.zero_grad()
    network(torch.randn(4, 3, generator=generator)).square().mean().backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()
    os.write(made, struct.pack("d", norm))
    if step == 25 and str(rank) in who.split(","):
        os.kill(int(child) if what == "recorder" else os.getpid(), signal.SIGKILL)
watch.close()
dist.barrier()
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed(folder, ranks, who, what, store):
    """Train until processes of these ranks are killed, and wait for the end of all recorders' processes."""
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    codes, _ = launching.forks(folder / "script.py", str(folder), who, what, store, ranks=ranks, timeout=120)
    pids = [int((folder / f"recorder{rank}").read_text()) for rank in range(ranks)]
    try:
        deadline = time.monotonic() + PATIENCE
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline, "no recorder's process outlives the training for long"
            time.sleep(0.05)
    finally:
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)
    norms = [np.fromfile(folder / f"made{rank}") for rank in range(ranks)]
    said = "".join((folder / f"stderr{rank}").read_text() for rank in range(ranks))
    return Run(folder / "run"), norms, codes, said


@pytest.mark.parametrize(
    ("ranks", "who", "store"),
    [
        (2, "0,1", "tcp"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(2, "0", "tcp"), (2, "1", "file"), (3, "0", "file"), (3, "1", "tcp"), (3, "0,2", "tcp")]
        ),
    ],
)
def test_a_killed_rank_loses_no_step_that_all_ranks_had_made_and_is_named(tmp_path, ranks, who, store):
    run, norms, codes, said = killed(tmp_path, ranks, who, "training", store)
    assert -signal.SIGKILL in codes
    made = min(map(len, norms))
    assert made >= 25
    steps = run.steps()
    assert steps.index.tolist() == list(range(len(steps)))
    assert len(steps) >= made
    np.testing.assert_allclose(steps["total_norm"][:made], norms[0][:made], rtol=1e-5)
    assert not run.ranks("norm").iloc[:made].isna().any().any(), "every rank is in every step"
    assert run.summary().dropped_steps == 0
    for rank in set(who.split(",")) - {"0"}:
        assert f"training process of rank {rank} ended without closing its recording" in said


@pytest.mark.slow
@pytest.mark.parametrize("who", ["0", "1", "0,1"])
def test_the_training_goes_on_when_recorders_are_killed(tmp_path, who):
    run, norms, codes, said = killed(tmp_path, 2, who, "recorder", "tcp")
    assert codes == [0, 0], said
    assert [len(each) for each in norms] == [40, 40]
    steps = run.steps()
    assert steps.index.tolist() == list(range(len(steps)))
    np.testing.assert_allclose(steps["total_norm"], norms[0][: len(steps)], rtol=1e-5)
    assert ("recording-stopped" in said) == ("0" in who)
