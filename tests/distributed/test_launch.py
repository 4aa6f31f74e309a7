"""Trainings by several processes as a user starts them, and what is left when a process dies."""

import textwrap

import numpy as np
import pytest

from gradwatch import Run

from .launching import ROOT, torchrun

SCRIPT = """
    import os, signal, sys, time, torch, torch.distributed as dist
    from pathlib import Path
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel
    import gradwatch
    from gradwatch.store import StoreReader

    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    # A store for each attempt: over torchrun's own, gloo now and then finds addresses of before a restart.
    store = f"file://{os.getcwd()}/store{attempt}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    network = fully_shard(network) if "sharded" in sys.argv else DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(rank)
    ranks = "collective" if "collective" in sys.argv else True
    recorder = "process" if "process" in sys.argv else "thread"
    first = 10 if attempt else 0
    with gradwatch.attach(network, optimizer, "run", ranks=ranks, first_step=first, recorder=recorder):
        for step in range(40):
            if rank == 1 and step == 15 and attempt == 0:
                with StoreReader(Path("run")) as reader:
                    while reader.next_step("0") < 14:  # what was before is not on the disk yet
                        time.sleep(0.05)
                if "kill" in sys.argv:
                    os.kill(os.getpid(), signal.SIGKILL)
                if "fail" in sys.argv:
                    sys.exit(1)
            optimizer.zero_grad()
            network(torch.randn(4, 5, generator=generator)).square().mean().backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            if rank == 0:
                norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
                print("norm", float(norm), flush=True)
    dist.destroy_process_group()
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    return tmp_path


def printed(done):
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("norm")]


@pytest.mark.parametrize("kind", ["sharded", pytest.param("copied", marks=pytest.mark.slow)])
def test_a_killed_rank_leaves_what_was_before_and_hangs_nothing(script, kind):
    done = torchrun("train.py", "kill", kind, cwd=script)
    assert done.returncode != 0
    run = Run(script / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(len(steps)))
    assert len(steps) >= 14
    np.testing.assert_allclose(steps["total_norm"][:14], printed(done)[:14], rtol=1e-5)
    assert run.damaged_rows == 0


@pytest.mark.parametrize(
    "how",
    [
        ("fail", "copied"),
        *(
            pytest.param(how, marks=pytest.mark.slow, id="-".join(how))
            for how in [
                ("fail", "sharded"),
                ("kill", "copied", "collective"),
                ("kill", "sharded", "process"),
            ]
        ),
    ],
)
def test_a_restart_by_torchrun_goes_on_with_the_run(script, how):
    done = torchrun("--max-restarts=1", "train.py", *how, cwd=script)
    assert done.returncode == 0, done.stderr
    run = Run(script / "run")
    assert len(run.attempts()) == 2
    steps = run.steps()
    assert steps.index.tolist() == list(range(50))
    assert steps["attempt"].tolist() == [0] * 10 + [1] * 40
    np.testing.assert_allclose(steps["total_norm"][10:], printed(done)[-40:], rtol=1e-5)
    assert run.ranks("norm").shape == (50, 2)


PLAIN = """
    import torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    network = fully_shard(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for step in range(10):
        optimizer.zero_grad()
        network(torch.randn(4, 5)).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        if dist.get_rank() == 0:
            print("norm", float(norm.full_tensor()), flush=True)
        else:
            norm.full_tensor()
    dist.destroy_process_group()
"""


def test_gradwatch_run_needs_no_option_for_a_sharded_training(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(PLAIN))
    done = torchrun("-m", "gradwatch", "run", "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    run = Run(folder)
    np.testing.assert_allclose(run.steps()["total_norm"], printed(done), rtol=1e-5)
    assert [info.name for info in run.parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [info.shape for info in run.parameters()] == [(7, 5), (7,), (1, 7), (1,)]
    assert done.stderr.count("gradwatch: recorded 10 steps") == 1


@pytest.mark.slow
def test_gradwatch_run_records_one_of_processes_that_train_by_themselves(tmp_path):
    (tmp_path / "train.py").write_text(
        textwrap.dedent(
            """
            import torch
            network = torch.nn.Linear(3, 1)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
            for step in range(5):
                network(torch.ones(1, 3)).sum().backward()
                optimizer.step()
            """
        )
    )
    done = torchrun("-m", "gradwatch", "run", "train.py", cwd=tmp_path, GRADWATCH_RUN="runs/x")
    assert done.returncode == 0, done.stderr
    assert len(Run(tmp_path / "runs" / "x").steps()) == 5
    assert "run-in-use" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("ddp", 232), ("fsdp2", 120)])
def test_the_examples_are_recorded(tmp_path, name, steps):
    done = torchrun(ROOT / "examples" / f"{name}.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / name)
    found = run.steps()
    assert found.index.tolist() == list(range(steps))
    assert found["loss"].iloc[-10:].mean() < 0.8 * found["loss"].iloc[:10].mean()
    assert [event for event in run.events() if event.severity != "info"] == []
    summary = run.summary()
    assert [rank.steps for rank in summary.ranks] == [steps, steps]
    assert (summary.noise_scale is not None) == (name == "ddp")
    assert summary.model == {"ddp": "Sequential", "fsdp2": "Transformer"}[name]
