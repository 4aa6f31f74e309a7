"""Captures under torchrun: training stays equal bit for bit, and the first rank keeps its own part."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from gradwatch.capture import differentiable, list_captures, read, set_random_state

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
import gradwatch

folder, kind, capture = sys.argv[1], sys.argv[2], sys.argv[3] == "capture"
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
if kind == "ddp":
    model = DistributedDataParallel(model)
elif kind == "sharded":
    model = fully_shard(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
with gradwatch.attach(model, optimizer, folder + "/run", capture=capture):
    for step in range(5):
        optimizer.zero_grad()
        x = torch.randn(8, 3)
        loss = model(x).square().mean()
        if step == 4:
            loss = loss * float("inf")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step == 4:
            break  # measured at the clip call; the update is left out, so that the weights can be compared
        optimizer.step()
state = {name: one.full_tensor() if kind == "sharded" else one for name, one in model.state_dict().items()}
if rank == 0:
    torch.save(state, folder + "/weights.pt")
dist.destroy_process_group()
"""


def trained(folder, kind, capture):
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "train.py", str(folder), kind, capture], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "weights.pt"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_a_training_of_two_processes_stays_as_it_is(kind, tmp_path):
    bare, _ = trained(tmp_path / "bare", kind, "not")
    kept, said = trained(tmp_path / "kept", kind, "capture")
    assert all(torch.equal(bare[name], kept[name]) for name in bare)
    captures = list_captures(tmp_path / "kept" / "run")
    if kind == "sharded":
        assert captures == []
        assert said.count("not-captured") == 1
        return
    (info,) = captures
    capture = read(info.folder)
    assert (info.step, info.why, capture.ranks, capture.model) == (4, "nonfinite", 2, "Sequential")
    assert "other processes" in capture.not_kept[0]
    (forward,) = capture.groups[0].forwards
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    model.load_state_dict({**capture.weights, **forward.buffers})
    set_random_state(forward.random_state)
    (output,) = differentiable(model(*forward.args, **forward.kwargs))
    output.backward(forward.output_gradients[0])
    assert not torch.isfinite(model[0].weight.grad).all()
