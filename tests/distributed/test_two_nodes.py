"""Trainings by two nodes, which are network namespaces with a cable between them, have the numbers of one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradwatch
from gradwatch.record import STATS

from . import training
from .launching import ROOT

pytestmark = pytest.mark.slow

RANKS_OF_A_NODE = 2
NAMES = ["ddp_heard", "fsdp2_clipped", "leaves_early"]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nodes():
    """Two namespaces, each with the command that runs something in it."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`")
    names = [f"gradwatch{os.getpid()}{end}" for end in "ab"]
    cable = [f"gw{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1])
        for at, (name, end) in enumerate(zip(names, cable, strict=True)):
            ip("-n", name, "address", "add", f"10.213.7.{at + 1}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces: {error.stderr.strip()}")
    else:
        yield [(["ip", "netns", "exec", name], end) for name, end in zip(names, cable, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def runs(nodes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    launch = ["-m", "torch.distributed.run", "--nnodes=2", f"--nproc-per-node={RANKS_OF_A_NODE}"]
    launch += ["--master-addr=10.213.7.1", "--master-port=29533"]
    begun = []
    for at, (within, device) in enumerate(nodes):
        command = [*within, sys.executable, *launch, f"--node-rank={at}", Path(training.__file__), folder, *NAMES]
        own = {"GLOO_SOCKET_IFNAME": device, "RANKS_OF_A_NODE": str(RANKS_OF_A_NODE)}
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | own
        begun.append(subprocess.Popen([*map(str, command)], env=env, stderr=subprocess.PIPE, text=True))
    try:
        said = [one.communicate(timeout=300)[1] for one in begun]
    finally:
        for one in begun:
            one.kill()
    assert [one.returncode for one in begun] == [0, 0], "\n".join(text[-2000:] for text in said)
    return folder


@pytest.mark.parametrize("name", ["ddp_heard", "fsdp2_clipped"])
def test_statistics_are_those_of_one_process(runs, alone, name):
    run, other = gradwatch.Run(runs / name), alone["clipped"]
    np.testing.assert_allclose(run.steps()["total_norm"], other.steps()["total_norm"], rtol=1e-4)
    assert run.parameters() == other.parameters()
    for stat in STATS:
        np.testing.assert_allclose(run.layers(stat), other.layers(stat), rtol=2e-3, atol=1e-7, err_msg=stat)
    assert not [event for event in run.events() if event.severity != "info"]


def test_every_rank_of_both_nodes_is_heard(runs):
    norms = gradwatch.Run(runs / "ddp_heard").ranks("norm")
    assert norms.shape == (training.STEPS, 2 * RANKS_OF_A_NODE)
    assert norms.notna().all(axis=None)


def test_a_node_that_has_less_data_holds_up_nobody(runs):
    run = gradwatch.Run(runs / "leaves_early")
    assert run.steps().index.tolist() == list(range(training.STEPS))
    heard = run.ranks("norm").notna().sum()
    assert heard.tolist() == [training.STEPS] * 2 + [training.STEPS // 2, training.STEPS]
