"""A node joins a training after a restart: torchrun begins to count restarts on it, so that the counts differ."""

import contextlib
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import GradwatchError

from .launching import ROOT, kept_port

pytestmark = pytest.mark.slow

PATIENCE = 120.0  # seconds
RANKS, STEPS = 2, 20  # ranks of a node, and steps of the training by two nodes

TRAIN = """
    import os, sys, time, torch, torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    import gradwatch

    rank, ranks, restarts = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    dist.init_process_group("gloo")
    network = DistributedDataParallel(nn.Linear(5, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    joined = ranks > 2
    print(f"{ranks} ranks, restarts {restarts}", flush=True)
    with gradwatch.attach(network, optimizer, "run", ranks=True, first_step=1000 if joined else 0):
        for step in range(20 if joined else 10_000):
            if rank == 1 and step == 5 and not joined and restarts == 0:
                sys.exit(1)
            optimizer.zero_grad()
            network(torch.full((1, 5), rank + 1.0)).sum().backward()
            optimizer.step()
            time.sleep(0.05)
    dist.destroy_process_group()
"""


def test_all_ranks_of_the_larger_training_are_heard(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    launch = ["-m", "torch.distributed.run", "--nnodes=1:2", f"--nproc-per-node={RANKS}", "--max-restarts=3"]
    launch += ["--rdzv-backend=c10d", "--rdzv-id=joining", "--rdzv-conf=last_call_timeout=2"]
    # torchrun of PyTorch 2.13 starts no node that joins while it shares its store with the workers.
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | own_store
    with contextlib.ExitStack() as stack:
        launch += [f"--rdzv-endpoint=127.0.0.1:{stack.enter_context(kept_port())}", "train.py"]

        def node():
            log = stack.enter_context((tmp_path / f"log{time.monotonic()}").open("w+"))
            begun = subprocess.Popen([sys.executable, *launch], cwd=tmp_path, env=env, stdout=log, stderr=log)
            stack.callback(begun.kill)
            return begun, log

        first = node()
        until = time.monotonic() + PATIENCE
        while "2 ranks, restarts 1" not in said(first) or recorded(tmp_path / "run") < 10:
            assert time.monotonic() < until, said(first)
            assert first[0].poll() is None, said(first)
            time.sleep(0.2)
        nodes = [first, node()]
        codes = [begun.wait(PATIENCE) for begun, _ in nodes]
        texts = [said(one) for one in nodes]
        assert codes == [0, 0], texts
    assert ["4 ranks, restarts 1" in text for text in texts] == [True, False]
    assert ["4 ranks, restarts 0" in text for text in texts] == [False, True]
    run = Run(tmp_path / "run")
    norms = run.ranks("norm").loc[1000:]
    assert norms.shape == (STEPS, 2 * RANKS)
    # The gradient of a rank is its input, which is rank + 1 five times, and 1 for the bias.
    expected = [(5 * (rank + 1) ** 2 + 1) ** 0.5 for rank in range(2 * RANKS)]
    np.testing.assert_allclose(norms, [expected] * STEPS, rtol=1e-6)


def recorded(run):
    with contextlib.suppress(GradwatchError):
        return len(Run(run).steps())
    return 0


def said(node):
    node[1].seek(0)
    return node[1].read()
