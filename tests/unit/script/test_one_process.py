"""A script of several processes runs in one."""

import os
import subprocess
import sys

import torch
from torch import nn

from gradwatch.script.one_process import alone, leave_whole

SCRIPT = """
import torch, torch.distributed as dist
from gradwatch.script.one_process import alone
with alone():
    from torch.distributed.fsdp import fully_shard
    dist.init_process_group("gloo")
    model = fully_shard(torch.nn.Linear(2, 1))
    model.set_requires_gradient_sync(False)
    model.unshard()
    print(dist.get_world_size(), type(model.weight).__name__, model(torch.ones(1, 2)).shape)
    dist.destroy_process_group()
import torch.distributed.fsdp
print(torch.distributed.fsdp.fully_shard.__module__)
"""


def test_a_script_finds_a_group_of_one_and_whole_parameters():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    first, second = done.stdout.splitlines()
    assert first == "1 Parameter torch.Size([1, 1])"
    assert second.startswith("torch.")


def test_the_environment_is_as_before_and_what_a_launcher_set_stays(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    before = dict(os.environ)
    with alone():
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
    assert dict(os.environ) == before
    monkeypatch.setenv("RANK", "3")
    with alone():
        assert os.environ["RANK"] == "3"
        assert "MASTER_PORT" not in os.environ


def test_modules_keep_their_class_name_and_what_they_do():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    before = model(torch.ones(1, 2))
    leave_whole([model[0], model[1]])
    leave_whole(leave_whole(model))
    assert [type(one).__name__ for one in model.modules()] == ["Sequential", "Linear", "Linear"]
    assert isinstance(model[0], nn.Linear)
    assert torch.equal(model(torch.ones(1, 2)), before)
