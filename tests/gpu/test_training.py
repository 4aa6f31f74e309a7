"""Trainings on a CUDA device: bit for bit the same with the recording, and recorded with the right numbers."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from gradwatch import Run
from gradwatch.capture import list_captures
from gradwatch.clip import NormClip

STEPS = 12


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(16, 64), nn.BatchNorm1d(64)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(64, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Checkpointed(Net):
    def forward(self, x):
        return self.last(checkpoint(lambda y: self.drop(torch.tanh(self.norm(self.first(y)))), x, use_reentrant=False))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.LSTM(4, 32, 2, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(self.cell(x.reshape(len(x), 4, 4))[0][:, -1])


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield torch.randn(8, 16, generator=generator).cuda(), torch.randint(0, 4, (8,), generator=generator).cuda()


def plain(model, optimizer, x, y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def clipped(model, optimizer, x, y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def in_bfloat16(model, optimizer, x, y):
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()


def accumulated(model, optimizer, x, y):
    optimizer.zero_grad()
    for part in range(2):
        (nn.functional.cross_entropy(model(x[part::2]), y[part::2]) / 2).backward()
    optimizer.step()


def by_closure(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)


LOOPS = {
    "plain": (Net, plain, lambda p: torch.optim.AdamW(p, 1e-2)),
    "fused": (Net, plain, lambda p: torch.optim.AdamW(p, 1e-2, fused=True)),
    "capturable": (Net, plain, lambda p: torch.optim.AdamW(p, 1e-2, capturable=True)),
    "clipped": (Net, clipped, lambda p: torch.optim.SGD(p, 1e-1, momentum=0.9)),
    "bfloat16": (Net, in_bfloat16, lambda p: torch.optim.AdamW(p, 1e-2, fused=True)),
    "accumulated": (Net, accumulated, lambda p: torch.optim.AdamW(p, 1e-2)),
    "closure": (Net, by_closure, lambda p: torch.optim.LBFGS(p, max_iter=3)),
    "checkpointed": (Checkpointed, plain, lambda p: torch.optim.AdamW(p, 1e-2)),
    "recurrent": (Recurrent, clipped, lambda p: torch.optim.Adam(p, 1e-2)),
    "rate in a tensor": (Net, plain, lambda p: torch.optim.AdamW(p, torch.tensor(1e-2), capturable=True)),
}


def trained(name, folder=None, **options):
    make, step, optimizer_of = LOOPS[name]
    torch.manual_seed(0)
    model = make().cuda()
    optimizer = optimizer_of(model.parameters())
    norms = []
    hook = None
    if name not in ("clipped", "recurrent", "closure"):
        hook = optimizer.register_step_pre_hook(lambda *_: norms.append(_norm(model)))
    watch = None if folder is None else gradwatch.attach(model, optimizer, folder, **options)
    for x, y in batches():
        step(model, optimizer, x, y)
    if watch is not None:
        watch.close()
    if hook is not None:
        hook.remove()
    return model.state_dict(), optimizer.state_dict(), torch.cuda.get_rng_state(), norms


def _norm(model):
    return float(torch.cat([p.grad.detach().double().flatten().cpu() for p in model.parameters()]).norm())


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize("options", [{}, {"capture": True, "weights_every": 1, "updates_every": 1}], ids=["", "all"])
@pytest.mark.parametrize("name", LOOPS)
def test_the_training_is_the_same_bit_for_bit_and_its_norms_are_right(tmp_path, name, options):
    bare = trained(name)
    recorded = trained(name, tmp_path / "run", **options)
    assert same(bare[0], recorded[0])
    assert same(bare[1], recorded[1])
    assert torch.equal(bare[2], recorded[2])
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == STEPS
    if recorded[3]:
        np.testing.assert_allclose(steps["total_norm"], recorded[3], rtol=1e-6)


def test_a_policy_clips_as_pytorch_does(tmp_path):
    torch.manual_seed(0)
    model = Net().cuda()
    other = copy.deepcopy(model)
    for net, own in ((model, False), (other, True)):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        clip = None if own else NormClip(0.1)
        torch.manual_seed(3)
        with gradwatch.attach(net, optimizer, tmp_path / f"run-{own}", clip=clip):
            for x, y in batches():
                (clipped if own else plain)(net, optimizer, x, y)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    assert Run(tmp_path / "run-False").steps()["clipped"].all()


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_skips_an_overflow_and_the_norms_are_unscaled(tmp_path, fused):
    torch.manual_seed(0)
    model = Net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**14, growth_interval=1000)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * (1e9 if step == 5 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    steps = Run(tmp_path / "run").steps()
    assert steps["skipped"].tolist() == [step == 5 for step in range(STEPS)]
    assert (steps["total_norm"].drop(5) < 100).all()
    assert steps["loss_scale"].tolist()[0] == 2.0**14


def test_an_update_that_is_not_finite_is_skipped_on_the_device(tmp_path):
    torch.manual_seed(0)
    model = Net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
    with gradwatch.attach(model, optimizer, tmp_path / "run", skip_nonfinite=True):
        for step, (x, y) in enumerate(batches()):
            plain(model, optimizer, x * (float("nan") if step == 5 else 1), y)
            if step == 5:
                model.norm.reset_running_stats()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert Run(tmp_path / "run").steps()["skipped"].tolist() == [step == 5 for step in range(STEPS)]


def test_parameters_of_host_and_device_in_one_optimizer(tmp_path):
    torch.manual_seed(0)
    host, device = nn.Linear(4, 4), nn.Linear(4, 1).cuda()
    model = nn.ModuleList([host, device])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    expected = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(1e9)):
        for _ in range(STEPS):
            optimizer.zero_grad()
            device(host(torch.randn(3, 4)).cuda()).square().mean().backward()
            expected.append(_norm(model))
            optimizer.step()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], expected, rtol=1e-6)


def test_a_loader_with_workers_and_pinned_memory(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(16, 4).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(TensorDataset(torch.randn(64, 16)), batch_size=8, num_workers=2, pin_memory=True)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for (x,) in loader:
            optimizer.zero_grad()
            model(x.cuda(non_blocking=True)).square().mean().backward()
            optimizer.step()
    assert len(Run(tmp_path / "run").steps()) == 8


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model(tmp_path, mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    compiled = torch.compile(model, mode=mode)
    expected = []
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for x, y in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(compiled(x), y).backward()
            expected.append(_norm(model))
            optimizer.step()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], expected, rtol=1e-6)


@pytest.mark.parametrize("what", ["the optimizer's step", "the whole step"])
def test_a_compiled_step(tmp_path, what):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    expected = []
    update = torch.compile(optimizer.step) if what != "the whole step" else optimizer.step

    def step(x, y):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        update()

    whole = torch.compile(step) if what == "the whole step" else step
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for x, y in batches():
            whole(x, y)
            expected.append(_norm(model))
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], expected, rtol=1e-5)


@pytest.mark.parametrize("clip", [None, NormClip(0.1)])
def test_a_step_within_a_cuda_graph_is_left_alone_and_told(tmp_path, caplog, clip):
    def run(folder):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, capturable=True)
        x, y = next(batches())
        watch = None if folder is None else gradwatch.attach(model, optimizer, folder, clip=clip)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                plain(model, optimizer, x, y)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for _ in range(5):
            graph.replay()
        torch.cuda.synchronize()
        if watch is not None:
            watch.close()
        return model.state_dict()

    recorded = run(tmp_path / "run")
    assert len(Run(tmp_path / "run").steps()) == 3
    assert sum("(cuda-graph-not-seen)" in record.getMessage() for record in caplog.records) == 1
    if clip is None:
        assert same(run(None), recorded)


def test_peak_memory_is_hardly_higher(tmp_path):
    def peak(folder):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(8))).cuda()  # 134 MB of weights
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        watch = None if folder is None else gradwatch.attach(model, optimizer, folder)
        x = torch.randn(4, 2048, device="cuda")
        for step in range(55):
            if step == 2:
                torch.cuda.reset_peak_memory_stats()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        if watch is not None:
            watch.close()
        return torch.cuda.max_memory_allocated()

    bare = peak(None)
    assert peak(tmp_path / "run") <= bare + 0.01 * 134e6 + 2**23  # what is read at a time has a size of its own


@pytest.mark.skipif(not hasattr(torch.cuda, "host_memory_stats"), reason="this PyTorch does not count pinned memory")
def test_pinned_memory_does_not_grow(tmp_path):
    model = Net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    owned = []
    options = {"weights_every": 1, "updates_every": 1, "clip": NormClip(1.0)}
    with gradwatch.attach(model, optimizer, tmp_path / "run", **options) as watch:
        for _ in range(6):
            for x, y in batches():
                plain(model, optimizer, x, y)
            torch.cuda.synchronize()
            watch.flush()
            owned.append(torch.cuda.host_memory_stats()["allocated_bytes.current"])
    assert owned[-1] <= owned[1] + 2**16


SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for step in range(45):
    x = torch.randn(32, 8, device="cuda")
    if step == 41:
        x[17] = 0.0
    scale = x.square().sum(1, keepdim=True).sqrt()
    optimizer.zero_grad()
    loss = (model(x) / scale).square().mean()
    loss.backward()
    optimizer.step()
"""


def test_a_bad_step_is_kept_and_replayed_on_the_device(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "gradwatch"]
    run = [*command, "run", "--capture", "--run", "run", "train.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert list_captures(tmp_path / "run"), done.stdout + done.stderr
    replay = [*command, "replay", "run", "train.py"]
    done = subprocess.run(replay, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "bit for bit" in done.stdout, done.stdout + done.stderr
    assert "row 17" in done.stdout
