"""The tests that other projects ship, run without the recording and with it: each has to end the same way.

They come from the source distributions on the package index; nothing of them is copied here. What can't be had, or
doesn't run offline on a CPU, is skipped with its reason. `make peers` runs this.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A project, and those of its tests that train.

    Attributes:
        package: on the index.
        tests: paths in the source distribution.
        version: the one to take, or None for the one that is installed. A package that is not installed is
            imported from its source distribution.
        options: of pytest.
        least_steps: optimizer steps in its own process that its tests make at least; fewer means that the recording
            was not there. Those of Accelerate train in processes that they start.
    """

    package: str
    tests: tuple[str, ...]
    version: str | None = None
    options: tuple[str, ...] = ()
    least_steps: int = 0


PEERS = (
    Peer(package="torch", tests=("test/test_nn.py", "test/test_optim.py")),
    Peer(
        package="lightning", tests=("tests/tests_pytorch/trainer/optimization", "tests/tests_fabric/plugins/precision")
    ),
    Peer(package="transformers", tests=("tests/trainer",)),
    Peer(
        package="accelerate",
        tests=("tests/test_optimizer.py", "tests/test_scheduler.py", "tests/test_grad_sync.py", "tests/test_hooks.py"),
    ),
    Peer(
        package="pytorch-optimizer",
        version="4.1.0",
        tests=("tests/test_optimizers.py", "tests/test_gradients.py"),
        least_steps=1,
    ),
    Peer(package="skorch", version="1.4.0", tests=("skorch/tests/callbacks/test_regularization.py",), least_steps=1),
)


def source_of(peer: Peer, folder: Path) -> Path:
    """Download and unpack its source distribution, or skip."""
    try:
        version = peer.version or importlib.metadata.version(peer.package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{peer.package} is not installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
    ]
    command += [f"{peer.package}=={version}", "--dest", str(folder)]
    downloaded = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        last = (downloaded.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"the index has no source distribution of {peer.package} {version}: {last}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return source


def run_tests(peer: Peer, tests: list[str], source: Path, report: Path, runs: Path | None) -> dict[str, Any]:
    """Run them in a process of their own; return how each ended, and how many steps were recorded."""
    environment = os.environ | {
        "GRADWATCH_PEERS_REPORT": str(report),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(FOLDER), *([str(source)] if peer.version else [])]),
    }
    if runs is not None:
        environment["GRADWATCH_PEERS_RUNS"] = str(runs)
    command = [sys.executable, "-m", "pytest", *tests, "-q", "-p", "recording_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-o", "addopts=", *peer.options],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if not report.exists():
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
        assert runs is None, "\n".join(said)
        pytest.skip(f"the tests of {peer.package} do not start here: {said[-1]}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
def test_the_tests_of_a_peer_end_the_same_with_and_without_the_recording(tmp_path, peer, record_property):
    source = source_of(peer, tmp_path)
    tests = [path for path in peer.tests if (source / path).exists()]
    if not tests:
        pytest.skip(f"the source distribution of {peer.package} holds none of {', '.join(peer.tests)}")
    alone = run_tests(peer, tests, source, tmp_path / "alone.json", None)
    recorded = run_tests(peer, tests, source, tmp_path / "recorded.json", tmp_path / "runs")
    differs = [name for name in alone["outcomes"] if alone["outcomes"][name] != recorded["outcomes"].get(name)]
    if differs:  # a test that ends differently by itself tells nothing
        again = run_tests(peer, tests, source, tmp_path / "again.json", None)["outcomes"]
        differs = [name for name in differs if again.get(name) == alone["outcomes"][name]]
    passed = sum(outcome == "passed" for outcome in alone["outcomes"].values())
    print(f"{peer.package}: {len(alone['outcomes'])} tests, {passed} pass, {recorded['steps']} steps recorded")
    record_property("tests", len(alone["outcomes"]))
    assert {name: (alone["outcomes"][name], recorded["outcomes"].get(name)) for name in differs} == {}
    assert recorded["outcomes"].keys() == alone["outcomes"].keys()
    assert passed > 0
    assert recorded["steps"] >= peer.least_steps
