"""Captures of several processes: training stays equal bit for bit, each keeps its part, one replays all."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.capture import list_captures, part_folders, read, read_all

from .launching import forks

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
del model, optimizer  # DDP holds the group; threads of gloo that outlive the interpreter may end the process by SIGABRT
dist.destroy_process_group()
"""


def trained(folder, kind, capture):
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    codes, stderr = forks(folder / "train.py", str(folder), kind, capture, ranks=2, timeout=300)
    assert codes == [0, 0], stderr
    return torch.load(folder / "weights.pt"), stderr


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


DIFFERENT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
import gradwatch
from gradwatch.capture import CaptureOptions

folder, kind = sys.argv[1:]
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2))

    def forward(self, x, about=None):
        return self.layers(x)


class About:
    pass


if kind == "fsdp1":
    model = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))
elif kind == "fully_shard":
    model = Net()
    fully_shard(model.layers[0])
    model = fully_shard(model)
else:
    model = DistributedDataParallel(Net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
has_no_room = kind == "no room on rank 1" and rank == 1
options = CaptureOptions(min_free_bytes=2**62 if has_no_room else 0)
with gradwatch.attach(model, optimizer, folder + "/run", capture=options, first_step=0):
    for step in range(6):
        optimizer.zero_grad()
        x = torch.randn(4, 3)
        if step == 5 and rank == 0:
            x[2, 1] = float("nan")
        about = About() if kind == "an object on rank 1" and rank == 1 else None
        model(x, about).square().mean().backward()
        optimizer.step()
dist.destroy_process_group()
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2))

    def forward(self, x, about=None):
        return self.layers(x)


def different(folder, kind):
    (folder / "train.py").write_text(DIFFERENT)
    codes, stderr = forks(folder / "train.py", str(folder), kind, ranks=2, timeout=300)
    assert codes == [0, 0], stderr
    return stderr


@pytest.mark.slow
def test_fsdp1_is_recorded_and_not_captured_and_one_line_says_why(tmp_path):
    said = different(tmp_path, "fsdp1")
    lines = [line for line in said.splitlines() if "not-captured" in line]
    assert len(lines) == 1
    assert "the parameters are sharded by something else than fully_shard" in lines[0]
    assert list_captures(tmp_path / "run") == []
    assert len(gradwatch.Run(tmp_path / "run").steps()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fully_shard"])
def test_a_resumed_run_keeps_the_parts_of_both_attempts(kind, tmp_path):
    for _ in range(2):
        different(tmp_path, kind)
    infos = list_captures(tmp_path / "run")
    assert [(info.folder.name, info.parts) for info in infos] == [("step-000005", (0, 1)), ("step-000005-2", (0, 1))]
    for info in infos:
        found = gradwatch.replay(info.folder, Net())
        assert found.recurs in ("bitwise", "close")
        assert [(row.row, row.rank) for row in found.suspects] == [(2, 0)]


@pytest.mark.slow
def test_what_one_rank_could_not_keep_is_said(tmp_path):
    for kind in ("no room on rank 1", "an object on rank 1"):
        (tmp_path / kind).mkdir()
        said = different(tmp_path / kind, kind)
        assert said.count("step-captured") == 1
        (info,) = list_captures(tmp_path / kind / "run")
        found = gradwatch.replay(info.folder, Net())
        assert found.recurs is None
        if kind == "no room on rank 1":
            assert said.count("not-captured") == 1
            assert (info.parts, found.parts) == ((0,), (0,))
            assert any("of rank 1 no capture is here" in one for one in found.unknown)
            assert [(row.row, row.rank) for row in found.suspects] == [(2, 0)]
        else:
            assert info.parts == (0, 1)
            assert any("About" in one for one in found.unknown)
