"""The tests that other projects ship, run without the recording and with it: each has to end the same way.

They come from the source distributions on the package index, or from checkouts in the folder that
GRADWATCH_PEERS_SOURCES names, one for each package and of its name; nothing of them is copied here. Tests that neither
holds, or that don't run offline on a CPU, are skipped with the reason. `make peers` runs this.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A project, and some of its tests that train.

    Attributes:
        package: on the index.
        about: which of its tests these are.
        tests: paths in its source.
        version: the one to take, or None for the one that is installed. A package that is not installed is
            imported from its source distribution.
        options: of pytest.
        paths: folders of the source that its tests import from.
        least_steps: optimizer steps in its own process that its tests make at least; fewer means that the recording
            was not there. Those of Accelerate train in processes that they start.
    """

    package: str
    about: str
    tests: tuple[str, ...]
    version: str | None = None
    options: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    least_steps: int = 0


def lightning(about: str, *tests: str, least_steps: int = 1, options: tuple[str, ...] = ()) -> Peer:
    return Peer(
        package="lightning",
        about=about,
        tests=tuple(f"tests/{test}" for test in tests),
        paths=("tests",),
        least_steps=least_steps,
        options=options,
    )


PEERS = (
    Peer(package="torch", about="clipping", tests=("test/test_nn.py",), options=("-k", "clip_grad")),
    lightning("optimization", "tests_pytorch/trainer/optimization", "tests_pytorch/loops/optimization"),
    lightning("hooks", "tests_pytorch/models/test_hooks.py"),
    lightning("precision", "tests_pytorch/plugins/precision", "tests_pytorch/models/test_amp.py"),
    lightning("restore", "tests_pytorch/models/test_restore.py"),
    # Those of several processes wait for one another for ever on some machines, without the recording as well.
    lightning("callbacks", "tests_pytorch/callbacks", options=("-k", "not ddp and not spawn")),
    lightning("fabric", "tests_fabric/test_fabric.py", "tests_fabric/test_wrappers.py", least_steps=0),
    lightning("fabric's precision", "tests_fabric/plugins/precision", least_steps=0),
    Peer(package="transformers", about="trainer", tests=("tests/trainer",), least_steps=1),
    Peer(
        package="accelerate",
        about="optimizer, accumulation, hooks",
        tests=("tests/test_optimizer.py", "tests/test_scheduler.py", "tests/test_grad_sync.py", "tests/test_hooks.py"),
    ),
    Peer(
        package="accelerate",
        about="accelerator, checkpoints",
        tests=("tests/test_accelerator.py", "tests/test_state_checkpointing.py", "tests/test_cpu.py"),
    ),
    Peer(
        package="pytorch-optimizer",
        about="optimizers, gradients",
        version="4.1.0",
        tests=("tests/test_optimizers.py", "tests/test_gradients.py"),
        least_steps=1,
    ),
    Peer(
        package="skorch",
        about="clipping",
        version="1.4.0",
        tests=("skorch/tests/callbacks/test_regularization.py",),
        least_steps=1,
    ),
)


def source_of(peer: Peer, folder: Path) -> Path:
    """Its checkout, or its source distribution, downloaded and unpacked; or skip."""
    checkout = Path(os.environ.get("GRADWATCH_PEERS_SOURCES", os.devnull)) / peer.package
    if checkout.is_dir():
        return checkout.absolute()
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
    folders = [source / path for path in peer.paths]
    environment = os.environ | {
        "GRADWATCH_PEERS_REPORT": str(report),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [FOLDER, *([source] if peer.version else []), *folders])),
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


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.package}: {peer.about}")
def test_the_tests_of_a_peer_end_the_same_with_and_without_the_recording(tmp_path, peer, record_property):
    source = source_of(peer, tmp_path)
    tests = [path for path in peer.tests if (source / path).exists()]
    if not tests:
        pytest.skip(f"the source distribution of {peer.package} holds none of {', '.join(peer.tests)}")
    alone = run_tests(peer, tests, source, tmp_path / "alone.json", None)
    recorded = run_tests(peer, tests, source, tmp_path / "recorded.json", tmp_path / "runs")
    differs = [name for name in alone["outcomes"] if alone["outcomes"][name] != recorded["outcomes"].get(name)]
    unsteady: list[str] = []
    if differs:  # a test that ends differently by itself tells nothing
        again = run_tests(peer, tests, source, tmp_path / "again.json", None)["outcomes"]
        unsteady = [name for name in differs if again.get(name) != alone["outcomes"][name]]
        differs = [name for name in differs if name not in unsteady]
    ends = Counter(outcome.split()[0] for outcome in alone["outcomes"].values())
    told = ", ".join(f"{ends[end]} {end}" for end in ("passed", "failed", "skipped") if ends[end])
    print(f"{peer.package}, {peer.about}: {told}; {len(differs)} differ; {recorded['steps']} steps recorded")
    for name in unsteady:
        print(f"  ends differently without the recording, too: {name}")
    for reason, times in Counter(alone["skipped"].values()).most_common():
        print(f"  skipped {times}: {reason}")
    record_property("tests", len(alone["outcomes"]))
    assert {name: (alone["outcomes"][name], recorded["outcomes"].get(name)) for name in differs} == {}
    assert recorded["outcomes"].keys() == alone["outcomes"].keys()
    assert ends["passed"] > 0
    assert recorded["steps"] >= peer.least_steps
