"""Captures under torchrun: training stays equal bit for bit, each rank keeps its part, one process replays all."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.capture import list_captures, part_folders, read, read_all

from .launching import torchrun

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
model = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7), nn.Dropout(0.2), nn.Linear(7, 2))
if kind == "ddp":
    model = DistributedDataParallel(model)
elif kind == "fully_shard":
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, 2))
    fully_shard(model[0])
    model = fully_shard(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
with gradwatch.attach(model, optimizer, folder + "/run", capture=capture):
    for step in range(40):
        optimizer.zero_grad()
        for micro_batch in range(2):
            weight = torch.ones(8, 1)
            if step == 39 and rank == 1 and micro_batch == 1:
                weight[5] = 1e4
            (model(torch.randn(8, 3)).square() * weight).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step == 39:
            break  # measured at the clip call; the update is left out, so that the weights can be compared
        optimizer.step()
state = {name: one.full_tensor() if kind == "fully_shard" else one for name, one in model.state_dict().items()}
if rank == 0:
    torch.save(state, folder + "/weights.pt")
dist.destroy_process_group()
"""


def trained(folder, kind, capture):
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    done = torchrun("train.py", folder, kind, capture, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "weights.pt"), done.stderr


def model_of(kind):
    if kind == "ddp":
        return nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7), nn.Dropout(0.2), nn.Linear(7, 2))
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fully_shard"])
def test_each_rank_keeps_its_part_and_one_process_replays_all(kind, tmp_path):
    bare, _ = trained(tmp_path / "bare", kind, "not")
    kept, said = trained(tmp_path / "kept", kind, "capture")
    assert all(torch.equal(bare[name], kept[name]) for name in bare)
    assert said.count("step-captured") == 1
    (info,) = list_captures(tmp_path / "kept" / "run")
    assert (info.step, info.ranks, info.parts) == (39, 2, (0, 1))
    assert [path.name for path in part_folders(info.folder).values()] == ["step-000039", "step-000039-rank1"]
    whole = read_all(info.folder)
    assert (whole.parts, whole.not_kept, [group.rank for group in whole.groups]) == ((0, 1), (), [0, 0, 1, 1])
    stored = {name.removeprefix("module."): one for name, one in kept.items()}
    assert all(torch.equal(whole.weights[name], stored[name]) for name in whole.weights)

    found = gradwatch.replay(info.folder, model_of(kind))
    assert found.recurs in ("bitwise", "close")
    assert [(row.row, row.micro_batch, row.rank) for row in found.suspects] == [(5, 1, 1)]

    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "replay", "run", "--json", "train.py", ".", kind, "capture"],
        cwd=tmp_path / "kept",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["recurs"], told["ranks"], told["parts"]) == (found.recurs, 2, [0, 1])
    assert told["rows"][0]["rank"] == 1

    shutil.rmtree(part_folders(info.folder)[1])
    alone = gradwatch.replay(info.folder, model_of(kind))
    assert alone.recurs is None
    assert alone.parts == (0,)
    assert any("of rank 1 no capture" in one or "can't be replayed" in one for one in alone.unknown)
    assert read(info.folder).replayable
    assert read_all(info.folder).replayable == (kind == "ddp")
