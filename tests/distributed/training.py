"""Trainings by several processes, each with a function here; `torchrun training.py FOLDER [NAME...]` runs them.

`alone` is what each is compared with: the same training in one process.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.nn.functional import all_gather, all_reduce
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import gradwatch
from gradwatch.clip import AdaGC, LayerNormClip, NormClip, Policy, SkipOutliers, ValueClip, ZClip, clip_grad_norm_
from gradwatch.distributed import RankCollective, agreement, collective, gather, tree
from gradwatch.distributed.collective import AddedStep
from gradwatch.recording.options import Ranks

STEPS, BATCH = 12, 48  # a batch that 2, 3, 4, 8 and 16 ranks divide evenly
CLIP = 0.05


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


def model() -> nn.Sequential:
    """Sizes that ranks do not divide evenly, and a bias of one entry: some ranks have nothing of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), Block(), Block(), nn.Linear(6, 1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 3, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


def part(values: Tensor, rank: int, world: int) -> Tensor:
    return values[rank * len(values) // world : (rank + 1) * len(values) // world]


def mine(values: Tensor) -> Tensor:
    return part(values, dist.get_rank(), dist.get_world_size())


def loss_of(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (network(x) - y).square().mean()


def norms_of_ranks(world: int) -> list[float]:
    """The norm of the first gradient of each rank, before the ranks reduce it."""
    network = model()
    x, y = batch(0)
    norms = []
    for rank in range(world):
        network.zero_grad()
        loss_of(network, part(x, rank, world), part(y, rank, world)).backward()
        norms.append(math.hypot(*(float(cast("Tensor", p.grad).norm()) for p in network.parameters())))
    return norms


def train(network: nn.Module, step_of: Callable[[int], None], optimizer: torch.optim.Optimizer) -> None:
    for step in range(STEPS):
        optimizer.zero_grad()
        step_of(step)
        optimizer.step()


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.01)


def alone(run: Path, clip: float | None = None, **options: Any) -> None:
    """In one process, with the whole batch."""
    network = model()
    optimizer = adam(network)

    def step_of(step: int) -> None:
        loss_of(network, *batch(step)).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)

    with gradwatch.attach(network, optimizer, run, weights_every=4, **options):
        train(network, step_of, optimizer)


def data_parallel(
    run: Path,
    network: nn.Module,
    clip: Callable[[nn.Module], object] = lambda network: None,
    whole_batch: bool = False,
    **options: Any,
) -> nn.Module:
    """Each rank has a part of the batch, or all of it."""
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = batch(step)
        loss_of(network, *((x, y) if whole_batch else (mine(x), mine(y)))).backward()
        clip(network)

    with gradwatch.attach(network, optimizer, run, weights_every=4, **options):
        train(network, step_of, optimizer)
    return network


def torch_clip(network: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)


def fsdp2(mesh: DeviceMesh | None = None) -> nn.Module:
    network = model()
    for part in (network[1], network[2]):
        fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def copies_of_shards() -> DeviceMesh:
    return init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copy", "shard"))


def fsdp1(strategy: ShardingStrategy, **options: Any) -> nn.Module:
    device = torch.device("cpu")
    return FullyShardedDataParallel(
        model(), use_orig_params=True, sharding_strategy=strategy, device_id=device, **options
    )


def tensor_parallel(mesh: DeviceMesh) -> nn.Module:
    """Columns of the one, rows of the other; the first and the last layer are plain, each rank has a copy."""
    network = model()
    for block in (network[1], network[2]):
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return network


def ddp(run: Path) -> None:
    data_parallel(run, DistributedDataParallel(model()))


def ddp_heard(run: Path, ranks: Ranks = True) -> None:
    network = data_parallel(run, DistributedDataParallel(model()), torch_clip, ranks=ranks)
    torch.save([p.detach() for p in network.parameters()], run.parent / f"{run.name}.{dist.get_rank()}.pt")


def ddp_frozen(run: Path) -> None:
    network = model()
    network[0].requires_grad_(False)
    data_parallel(run, DistributedDataParallel(network))


def deep() -> nn.Sequential:
    """So many that all updates are read at every second step only. Of five rows the last of four ranks has none."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), *(nn.Linear(5, 5) for _ in range(10)), nn.Linear(5, 1))


def deep_ddp(run: Path) -> None:
    data_parallel(run, DistributedDataParallel(deep()))


def deep_ddp_heard(run: Path) -> None:
    data_parallel(run, DistributedDataParallel(deep()), ranks=True)


def deep_fsdp2(run: Path) -> None:
    network = deep()
    fully_shard(network)
    data_parallel(run, network)


def ddp_unheard(run: Path) -> None:
    """The weights that the one before is to have, to the bit."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        loss_of(network, *map(mine, batch(step))).backward()
        torch_clip(network)

    train(network, step_of, optimizer)
    torch.save([p.detach() for p in network.parameters()], run.parent / f"{run.name}.{dist.get_rank()}.pt")


def fsdp2_plain(run: Path) -> None:
    data_parallel(run, fsdp2())


def fsdp2_clipped(run: Path, ranks: Ranks = False) -> None:
    data_parallel(run, fsdp2(), torch_clip, ranks=ranks)


def fsdp2_drop_in(run: Path) -> None:
    data_parallel(run, fsdp2(), lambda network: clip_grad_norm_(network.parameters(), CLIP))


def fsdp2_drop_in_largest(run: Path) -> None:
    data_parallel(run, fsdp2(), lambda network: clip_grad_norm_(network.parameters(), CLIP, norm_type=float("inf")))


def fsdp2_policy_in_loop(run: Path) -> None:
    policy = NormClip(CLIP)
    data_parallel(run, fsdp2(), lambda network: policy(network.parameters()))


def fsdp2_accumulated(run: Path) -> None:
    network = fsdp2()
    optimizer = adam(network)

    def step_of(step: int) -> None:
        for x, y in zip(*(values.chunk(2) for values in map(mine, batch(step))), strict=True):
            (loss_of(network, x, y) / 2).backward()
        torch_clip(network)

    with gradwatch.attach(network, optimizer, run, weights_every=4):
        train(network, step_of, optimizer)


def hsdp(run: Path, ranks: Ranks = False) -> None:
    data_parallel(run, fsdp2(copies_of_shards()), torch_clip, ranks=ranks)


def tp(run: Path) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    data_parallel(run, tensor_parallel(mesh), whole_batch=True)


class _Copied(torch.autograd.Function):
    """Megatron's f: all ranks of a group compute with the same input, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _Added(torch.autograd.Function):
    """Megatron's g: the output is the sum over the ranks of a group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        whole = x.clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class MegatronBlock(nn.Module):
    """A block whose ranks hold plain tensors as parts: columns of the one layer, rows of the other."""

    def __init__(self, whole: Block, group: Any) -> None:
        super().__init__()
        self.up, self.down, self.group = whole.up, whole.down, group
        for layer in (self.up, self.down):
            layer.tp_group = group
        cut = [(self.up, "weight", 0), (self.up, "bias", 0), (self.down, "weight", 1)]
        for layer, name, dim in cut:
            part: Any = nn.Parameter(getattr(layer, name).detach().chunk(group.size(), dim)[group.rank()].clone())
            part.tensor_model_parallel, part.partition_dim, part.partition_stride = True, dim, 1
            setattr(layer, name, part)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.up(_Copied.apply(x, self.group)))
        return x + _Added.apply(nn.functional.linear(hidden, self.down.weight), self.group) + self.down.bias


def megatron_like(run: Path, *, is_told: bool = True) -> None:
    """Tensor parallel layers of plain tensors, with copies of all of them beside if there are four ranks or more."""
    world, rank, size = dist.get_world_size(), dist.get_rank(), 2
    cut_over = [dist.new_group(list(range(at, at + size))) for at in range(0, world, size)]
    copied_over = [dist.new_group(list(range(at, world, size))) for at in range(size)]
    network, copies = model(), world // size
    for name in ("1", "2"):
        whole: Any = network.get_submodule(name)
        block = MegatronBlock(whole, cut_over[rank // size])
        if not is_told:
            del block.up.tp_group, block.down.tp_group
        network[int(name)] = block
    optimizer = adam(network)
    rows, at = BATCH // copies, rank // size

    def step_of(step: int) -> None:
        loss_of(network, *(values[at * rows : (at + 1) * rows] for values in batch(step))).backward()
        for parameter in network.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad, group=copied_over[rank % size])
            parameter.grad /= copies

    with gradwatch.attach(network, optimizer, run, weights_every=4):
        train(network, step_of, optimizer)


def megatron_like_untold(run: Path) -> None:
    """The same, where nothing says over which ranks the layers are cut."""
    megatron_like(run, is_told=False)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(3), nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(self.norm(x))))


def normed() -> nn.Module:
    torch.manual_seed(0)
    return Normed()


def sequence_parallel(run: Path, in_loop: Callable[[nn.Module], object] = lambda network: None, **options: Any) -> None:
    """Each rank normalises a part of each sequence, and what it has of that gradient is a sum to be made."""
    network, mesh = normed(), init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(network, mesh, plan)
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = sequences(step)
        loss_of(network, x.chunk(dist.get_world_size(), 1)[dist.get_rank()], y).backward()
        in_loop(network)

    with gradwatch.attach(network, optimizer, run, weights_every=4, **options):
        train(network, step_of, optimizer)


def sequences(step: int) -> tuple[Tensor, ...]:
    return tuple(values.view(2, BATCH // 2, -1) for values in batch(step))


def sequence_parallel_observed(run: Path) -> None:
    sequence_parallel(run)


def sequence_parallel_policy(run: Path) -> None:
    sequence_parallel(run, clip=NormClip(CLIP))


def sequence_parallel_policy_in_loop(run: Path) -> None:
    policy = NormClip(CLIP)
    sequence_parallel(run, lambda network: policy(network.parameters()))


def sequence_parallel_drop_in(run: Path) -> None:
    sequence_parallel(run, lambda network: clip_grad_norm_(network.parameters(), CLIP))


def tp_and_fsdp2(run: Path, **options: Any) -> None:
    """Two dimensions: blocks are cut along both, the other layers along one."""
    cuts = min(4, dist.get_world_size() // 2)  # PyTorch refuses blocks that these do not divide
    mesh = init_device_mesh("cpu", (dist.get_world_size() // cuts, cuts), mesh_dim_names=("dp", "tp"))
    network = tensor_parallel(mesh["tp"])
    for part in network.children():
        fully_shard(part, mesh=mesh["dp"])
    # PyTorch refuses one update of tensors over different meshes.
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, foreach=False)
    rows, at = BATCH // mesh["dp"].size(), mesh["dp"].get_local_rank()

    def step_of(step: int) -> None:
        loss_of(network, *(values[at * rows : (at + 1) * rows] for values in batch(step))).backward()

    with gradwatch.attach(network, optimizer, run, weights_every=4, **options):
        train(network, step_of, optimizer)


def tp_and_fsdp2_policy(run: Path) -> None:
    tp_and_fsdp2(run, clip=NormClip(CLIP))


def own_clip(network: nn.Module) -> None:
    """FSDP1's own method."""
    assert isinstance(network, FullyShardedDataParallel)
    network.clip_grad_norm_(CLIP)


def fsdp1_full(run: Path) -> None:
    data_parallel(run, fsdp1(ShardingStrategy.FULL_SHARD), own_clip)


def fsdp1_hybrid(run: Path) -> None:
    network = fsdp1(ShardingStrategy.HYBRID_SHARD, device_mesh=copies_of_shards())
    data_parallel(run, network, own_clip)


def fsdp1_not_sharded(run: Path) -> None:
    network = fsdp1(ShardingStrategy.NO_SHARD)
    data_parallel(run, network, own_clip)


def pipeline(run: Path, ranks: Ranks = True) -> None:
    """Two stages, each on half of the ranks, that hand activations and their gradients on by hand."""
    world, rank = dist.get_world_size(), dist.get_rank()
    whole = model()
    halves = world // 2
    groups = [dist.new_group(list(range(halves))), dist.new_group(list(range(halves, world)))]
    is_first, at = rank < halves, rank % halves
    stage = nn.ModuleDict({n: part for n, part in whole.named_children() if (int(n) < 2) == is_first})
    optimizer = adam(stage)
    rows = BATCH // halves

    def step_of(step: int) -> None:
        x, y = (values[at * rows : (at + 1) * rows] for values in batch(step))
        if is_first:
            hidden = stage["1"](stage["0"](x))
            dist.send(hidden.detach(), rank + halves)
            back = torch.empty_like(hidden)
            dist.recv(back, rank + halves)
            hidden.backward(back)
        else:
            hidden = torch.empty(rows, 6)
            dist.recv(hidden, rank - halves)
            hidden.requires_grad_()
            (stage["3"](stage["2"](hidden)) - y).square().mean().backward()
            assert hidden.grad is not None
            dist.send(hidden.grad, rank - halves)
        for parameter in stage.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad, group=groups[not is_first])
            parameter.grad /= halves

    with gradwatch.attach(stage, optimizer, run, weights_every=4, ranks=ranks):
        train(stage, step_of, optimizer)


class Experts(nn.Module):
    """A layer whose tokens take turns among its experts. A process has all of them, or one of each rank."""

    def __init__(self, count: int, mine: int | None) -> None:
        super().__init__()
        experts = {str(one): nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6)) for one in range(count)}
        self.count = count
        self.experts = nn.ModuleDict({name: one for name, one in experts.items() if mine in (None, int(name))})

    def forward(self, x: Tensor) -> Tensor:
        token = torch.arange(len(x))[:, None]
        parts = [torch.where(token % self.count == int(n), one(x), 0.0) for n, one in self.experts.items()]
        return torch.stack(parts).sum(0)


class Mixture(nn.Module):
    def __init__(self, count: int, mine: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.layer, self.down = nn.Linear(3, 6), Experts(count, mine), nn.Linear(6, 1)


def mixture_alone(run: Path, experts: int) -> None:
    """All experts in one process."""
    network = Mixture(experts)
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = batch(step)
        hidden = network.up(x)
        (network.down(hidden + network.layer(hidden)) - y).square().mean().backward()

    with gradwatch.attach(network, optimizer, run, weights_every=4):
        train(network, step_of, optimizer)


def expert_parallel(run: Path) -> None:
    """Each rank has an expert, which gets its tokens from all ranks; the other layers are copies, with a part each."""
    network = Mixture(dist.get_world_size(), dist.get_rank())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = batch(step)
        hidden = network.up(mine(x))
        tokens = torch.cat(all_gather(hidden))
        answers = mine(all_reduce(network.layer(tokens)))
        ((network.down(hidden + answers) - mine(y)).square().sum() / BATCH).backward()
        for part in (network.up, network.down):
            for parameter in part.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)

    with gradwatch.attach(network, optimizer, run, weights_every=4, ranks=True):
        train(network, step_of, optimizer)


class LocalExpert(nn.Module):
    """A layer that all ranks have, and an expert that each rank calls by the same name."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        expert = nn.Linear(6, 1)
        self.shared, self.local_experts = nn.Linear(3, 6), nn.ModuleList([expert])
        torch.manual_seed(rank)
        nn.init.normal_(expert.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.local_experts[0](self.shared(x))
        return hidden


def local_experts(run: Path) -> None:
    network = LocalExpert(dist.get_rank())
    optimizer = adam(network)
    with gradwatch.attach(network, optimizer, run, ranks=True):
        train(network, lambda step: loss_of(network, *batch(step)).backward(), optimizer)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.qkv, self.down = nn.Linear(3, 8), nn.Linear(8, 24, bias=False), nn.Linear(8, 1)

    def inputs(self, x: Tensor) -> Tensor:
        """Queries, keys and values of each token, (tokens, 24)."""
        return self.qkv(self.up(x).tanh())

    def answer(self, own: Tensor, everybodys: Tensor) -> Tensor:
        """What the queries of some tokens find in the keys and values of all, with two heads."""
        q, k, v = (part.reshape(-1, 2, 4).transpose(0, 1) for part in (own.chunk(3, 1)[0], *everybodys.chunk(3, 1)[1:]))
        weights = torch.softmax(q @ k.transpose(1, 2) / 2, -1)
        return self.down((weights @ v).transpose(0, 1).reshape(-1, 8))


def attention_alone(run: Path) -> None:
    """One sequence in one process."""
    network = Attention()
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = batch(step)
        inputs = network.inputs(x)
        (network.answer(inputs, inputs) - y).square().mean().backward()

    with gradwatch.attach(network, optimizer, run, weights_every=4):
        train(network, step_of, optimizer)


def context_parallel(run: Path) -> None:
    """Each rank has a part of one sequence, and its queries meet the keys and values of all ranks.

    By hand: the forward pass of PyTorch's own `context_parallel` ends in an error on the CPU, see docs/ranks.md.
    """
    network = Attention()
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = batch(step)
        inputs = network.inputs(mine(x))
        ((network.answer(inputs, torch.cat(all_gather(inputs))) - mine(y)).square().sum() / BATCH).backward()
        for parameter in network.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)

    with gradwatch.attach(network, optimizer, run, weights_every=4, ranks=True):
        train(network, step_of, optimizer)


POLICIES: dict[str, Callable[[], Policy]] = {
    "norm": lambda: NormClip(CLIP),
    "layers": lambda: LayerNormClip(CLIP / 4),
    "value": lambda: ValueClip(CLIP / 10),
    "zclip": lambda: ZClip(warm_up=3, z=0.5),
    "adagc": lambda: AdaGC(start=3, max_norm=CLIP),
    "skip": lambda: SkipOutliers(window=4, sigma=0.5),
}


def with_policy(run: Path, make: Callable[[], Policy]) -> None:
    network = fsdp2()
    optimizer = adam(network)
    with gradwatch.attach(network, optimizer, run, weights_every=4, clip=make()):
        train(network, lambda step: loss_of(network, *map(mine, batch(step))).backward(), optimizer)
    full = [p.full_tensor().detach() if isinstance(p, DTensor) else p.detach() for p in network.parameters()]
    if dist.get_rank() == 0:
        torch.save(full, run.parent / f"{run.name}.pt")


def poisoned(run: Path, ranks: Ranks = True) -> None:
    """From step 5 on rank 1 has a NaN in its batch."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = map(mine, batch(step))
        if step >= 5 and dist.get_rank() == 1:
            x = x.clone()
            x[0, 0] = float("nan")
        loss_of(network, x, y).backward()

    with gradwatch.attach(network, optimizer, run, ranks=ranks):
        train(network, step_of, optimizer)


def parted(run: Path, ranks: Ranks = True) -> None:
    """From step 5 on the last rank's gradient of one layer is another than that of the others."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        loss_of(network, *map(mine, batch(step))).backward()
        if step >= 5 and dist.get_rank() == dist.get_world_size() - 1:
            network.module[1].up.weight.grad *= 1.01

    with gradwatch.attach(network, optimizer, run, ranks=ranks):
        train(network, step_of, optimizer)


def joined(run: Path, ranks: Ranks = False) -> None:
    """From step 6 on the optimizer has the other parameters as well."""
    network = fsdp2()
    first, later = list(network.parameters())[:4], list(network.parameters())[4:]
    optimizer = torch.optim.AdamW(first, lr=0.01)

    def step_of(step: int) -> None:
        if step == 6:
            optimizer.add_param_group({"params": later})
        loss_of(network, *map(mine, batch(step))).backward()

    with gradwatch.attach(network, optimizer, run, weights_every=4, ranks=ranks):
        train(network, step_of, optimizer)


def slow(run: Path) -> None:
    """The last rank makes all others wait for two seconds."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        if step == 5 and dist.get_rank() == dist.get_world_size() - 1:
            time.sleep(2.0)
        loss_of(network, *map(mine, batch(step))).backward()

    with gradwatch.attach(network, optimizer, run, ranks=True):
        train(network, step_of, optimizer)


def uneven(run: Path) -> None:
    """Rank 0 has less data than the others, under `join`."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    steps = STEPS if dist.get_rank() else STEPS // 2
    with gradwatch.attach(network, optimizer, run, ranks=True), network.join():
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(network, *map(mine, batch(step))).backward()
            optimizer.step()


def uneven_elsewhere(run: Path, ranks: Ranks = True) -> None:
    """The last rank has less data than rank 0, and stops listening when it has none."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    steps = STEPS // 2 if dist.get_rank() == dist.get_world_size() - 1 else STEPS
    with network.join(), gradwatch.attach(network, optimizer, run, ranks=ranks):
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(network, *map(mine, batch(step))).backward()
            optimizer.step()


def steps_of(rank: int) -> int:
    """Uneven inputs: rank 0 has the most, and on each node of four ranks another rank has the least."""
    return STEPS - (rank + rank // 4) % 4


def uneven_inputs(run: Path) -> None:
    """Ranks leave one after the other, under `join`, and stop listening as they do."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    with network.join(), gradwatch.attach(network, optimizer, run, ranks=True):
        for step in range(steps_of(dist.get_rank())):
            optimizer.zero_grad()
            loss_of(network, *map(mine, batch(step))).backward()
            optimizer.step()


def uneven_inputs_alone(run: Path, world: int) -> None:
    """The same in one process: a mean over all ranks, of which those that have left add nothing."""
    network = model()
    optimizer = adam(network)

    def step_of(step: int) -> None:
        x, y = (values.chunk(world) for values in batch(step))
        there = [rank for rank in range(world) if step < steps_of(rank)]
        (torch.stack([loss_of(network, x[rank], y[rank]) for rank in there]).sum() / world).backward()

    with gradwatch.attach(network, optimizer, run):
        train(network, step_of, optimizer)


def accumulated(run: Path) -> None:
    """Two micro-batches, of which only the second is reduced."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)

    def step_of(step: int) -> None:
        first, second = zip(*(values.chunk(2) for values in map(mine, batch(step))), strict=True)
        with network.no_sync():
            (loss_of(network, *first) / 2).backward()
        (loss_of(network, *second) / 2).backward()

    with gradwatch.attach(network, optimizer, run, ranks=True):
        train(network, step_of, optimizer)


def rank_0_only(run: Path) -> None:
    """Attached in rank 0 alone, without asking for the others."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    with gradwatch.attach(network, optimizer, run) if dist.get_rank() == 0 else contextlib.nullcontext():
        train(network, lambda step: loss_of(network, *map(mine, batch(step))).backward(), optimizer)


def own(run: Path) -> None:
    """Each process trains and records by itself; and sharded parameters are refused there."""
    network = model()
    optimizer = adam(network)
    with gradwatch.attach(network, optimizer, run / str(dist.get_rank()), ranks="own"):
        train(network, lambda step: loss_of(network, *batch(step)).backward(), optimizer)
    sharded = fsdp2()
    with pytest.raises(gradwatch.GradwatchError, match="holds only a part"):
        gradwatch.attach(sharded, adam(sharded), run / f"sharded{dist.get_rank()}", ranks="own")


def in_a_group(run: Path) -> None:
    """Half of the ranks train one model, half another; each half's first records."""
    half = dist.get_world_size() // 2
    groups = [dist.new_group(list(range(half))), dist.new_group(list(range(half, 2 * half)))]
    own = groups[dist.get_rank() >= half]
    network = DistributedDataParallel(model(), process_group=own)
    optimizer = adam(network)
    recording = gradwatch.attach(network, optimizer, run) if dist.get_rank() == 0 else contextlib.nullcontext()
    with recording:
        train(network, lambda step: loss_of(network, *batch(step)).backward(), optimizer)


def leaves_early(run: Path) -> None:
    """A rank that combines others' steps has less data than they do, and stops listening when it has none."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    steps = STEPS // 2 if dist.get_rank() == dist.get_world_size() // 2 else STEPS
    with network.join(), gradwatch.attach(network, optimizer, run, ranks=True):
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(network, *map(mine, batch(step))).backward()
            optimizer.step()


def silent_rank(run: Path) -> None:
    """The last rank does not attach, though its part is needed."""
    gather.FIRST_PATIENCE = 3.0  # the others are heard by then, on a busy machine too
    network = fsdp2()
    optimizer = adam(network)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    began = time.monotonic()
    with contextlib.nullcontext() if is_last else gradwatch.attach(network, optimizer, run):
        train(network, lambda step: loss_of(network, *map(mine, batch(step))).backward(), optimizer)
    (run.parent / f"{run.name}.{dist.get_rank()}.seconds").write_text(str(time.monotonic() - began))


def by_collective(run: Path, train_it: Callable[..., None]) -> None:
    """The same by a collective. Rank 0 writes down how many steps that has carried."""
    carried = 0
    advance = RankCollective.advance

    def counted(self: RankCollective, *, leaving: bool = False) -> list[AddedStep]:
        nonlocal carried
        added = advance(self, leaving=leaving)
        carried += len(added)
        return added

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankCollective, "advance", counted)
        train_it(run, ranks="collective")
    if dist.get_rank() == 0:
        (run.parent / f"{run.name}.carried").write_text(str(carried))


def collective_absent(run: Path) -> None:
    """The last rank does not attach; then rank 0 may not wait for long."""
    network = DistributedDataParallel(model())
    optimizer = adam(network)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "WITHIN", 1.0)
        patch.setattr(gather, "FIRST_PATIENCE", 1.0)
        with contextlib.nullcontext() if is_last else gradwatch.attach(network, optimizer, run, ranks="collective"):
            train(network, lambda step: loss_of(network, *map(mine, batch(step))).backward(), optimizer)


def collective_stalled(run: Path) -> None:
    """From step 4 on the thread of the last rank takes no part, until the others have given up."""
    network = fsdp2()
    optimizer = adam(network)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    stalled = threading.Event()
    advance = RankCollective.advance

    def stalling(self: RankCollective, *, leaving: bool = False) -> list[AddedStep]:
        while stalled.is_set() and self._mailbox.announced("letters") is None:
            time.sleep(0.05)
        return advance(self, leaving=leaving)

    def step_of(step: int) -> None:
        time.sleep(0.1)
        if step == 4 and is_last:
            stalled.set()
        loss_of(network, *map(mine, batch(step))).backward()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankCollective, "advance", stalling)
        patch.setattr(collective, "PATIENCE", 1.0)
        with gradwatch.attach(network, optimizer, run, weights_every=4, ranks="collective"):
            train(network, step_of, optimizer)
            time.sleep(2.0)  # a training that ends gives up without a message


def collective_gone(run: Path) -> None:
    """Each rank trains by itself; the last is gone after half of the steps. The world ends with this scenario."""
    network = model()
    optimizer = adam(network)
    is_last = dist.get_rank() == dist.get_world_size() - 1

    def step_of(step: int) -> None:
        time.sleep(0.1)
        if step == STEPS // 2 and is_last:
            os._exit(0)
        loss_of(network, *batch(step)).backward()

    with gradwatch.attach(network, optimizer, run, ranks="collective"):
        train(network, step_of, optimizer)
    sys.stderr.flush()
    os._exit(0)  # rank 0 may have the store of all others


COLLECTIVE = (ddp_heard, fsdp2_clipped, hsdp, tp_and_fsdp2, pipeline, poisoned, parted, joined, uneven_elsewhere)

BY_MESSAGES: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        ddp,
        ddp_heard,
        ddp_unheard,
        ddp_frozen,
        deep_ddp,
        deep_ddp_heard,
        deep_fsdp2,
        fsdp2_plain,
        fsdp2_clipped,
        fsdp2_drop_in,
        fsdp2_drop_in_largest,
        fsdp2_policy_in_loop,
        fsdp2_accumulated,
        hsdp,
        tp,
        megatron_like,
        megatron_like_untold,
        tp_and_fsdp2,
        tp_and_fsdp2_policy,
        sequence_parallel_observed,
        sequence_parallel_policy,
        sequence_parallel_policy_in_loop,
        sequence_parallel_drop_in,
        fsdp1_full,
        fsdp1_hybrid,
        fsdp1_not_sharded,
        pipeline,
        expert_parallel,
        context_parallel,
        local_experts,
        poisoned,
        parted,
        joined,
        slow,
        uneven,
        uneven_elsewhere,
        uneven_inputs,
        accumulated,
        rank_0_only,
        own,
        in_a_group,
        leaves_early,
        silent_rank,
    )
} | {f"policy_{name}": functools.partial(with_policy, make=make) for name, make in POLICIES.items()}

SCENARIOS = (
    BY_MESSAGES
    | {f"collective_{one.__name__}": functools.partial(by_collective, train_it=one) for one in COLLECTIVE}
    | {one.__name__: one for one in (collective_absent, collective_stalled, collective_gone)}
)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """A scenario that fails says so in a file, and the next goes on."""
    try:
        yield
    except Exception as error:
        path.write_text(f"{type(error).__name__}: {error}")
        raise


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(BY_MESSAGES)
    torch.set_num_threads(1)
    if "RANKS_OF_A_NODE" in os.environ:  # then the ranks reach rank 0 by a tree, as in a large world
        tree.FLAT, tree.WIDTH = 1, 2
        os.environ["LOCAL_WORLD_SIZE"] = os.environ["RANKS_OF_A_NODE"]
    if "RECORDER" in os.environ:
        gradwatch.attach = functools.partial(gradwatch.attach, recorder=cast("Any", os.environ["RECORDER"]))
    dist.init_process_group("gloo")
    for name in names:
        with told(folder / f"{name}.{os.environ['RANK']}.error"):
            SCENARIOS[name](folder / name)
        dist.barrier()
        if dist.get_rank() == 0:
            print(name, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
