"""Trainings on the device: never waited for, recorded as their twins on the CPU are, and not changed."""

import copy
import gc
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run, clip
from gradwatch.capture import list_captures, read
from gradwatch.measure import devices

from ...scripts import load

launches = load("launches")
STEPS, WARM_UP = 12, 4


@dataclass
class Trained:
    """The weights, whatever waited for the device on a thread that is not the recorder's, and the run.

    ``operated``: whether the recorder's thread asked the device for anything but what was copied from it.
    """

    weights: list[torch.Tensor]
    waits: list[str]
    run: Run | None
    operated: bool


def train(late, device, folder, option, name="AdamW", **more):
    """Train with an option of the launches' table, or without gradwatch where there is no folder."""
    loop, options = launches.OPTIONS[option]
    return train_by(late, device, folder, loop, launches.OPTIMIZERS[name], copy.deepcopy(options) | more)


def train_by(late, device, folder, loop, make, options):
    """Train with a loop of the launches' table, and with the optimizer that ``make`` gives."""
    launches.DEVICE = device
    torch.manual_seed(0)
    net = launches.model()
    optimizer = make(net)
    watch = None if folder is None else gradwatch.attach(net, optimizer, folder, **options)
    recorders = recording_threads()
    list(map(late.has_operated, recorders))
    for step in range(STEPS):
        if step == WARM_UP:
            late.waits()
        loop(net, optimizer, watch, step)
    waits = [what for thread, what in late.waits() if thread not in recorders]
    if watch is not None:
        watch.close()
    weights = [parameter.detach().cpu() for parameter in net.parameters()]
    operated = any(list(map(late.has_operated, recorders)))
    return Trained(weights, waits, None if folder is None else Run(folder), operated)


def recording_threads():
    return {thread.native_id for thread in threading.enumerate() if thread.name == "gradwatch"}


def same_numbers(one, other, steps=STEPS):
    """Compare all that both runs have read; zeros are counted at fewer steps on a device."""
    assert len(one.steps()) == len(other.steps()) == steps
    left, right = one.steps(), other.steps()
    assert list(left.columns) == list(right.columns)
    for column in left.columns:
        if column in ("wall_time", "attempt") or left[column].dtype == object:
            continue
        mine, theirs = left[column].to_numpy(float), right[column].to_numpy(float)
        if column == "zeros":
            both = ~np.isnan(mine) & ~np.isnan(theirs)
            mine, theirs = mine[both], theirs[both]
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=1e-9, err_msg=column)
    for stat in ("norm", "abs_max", "nonfinite"):
        np.testing.assert_allclose(one.layers(stat), other.layers(stat), rtol=2e-4, atol=1e-9, err_msg=stat)


@pytest.mark.parametrize("option", launches.OPTIONS)
def test_each_option(late, tmp_path, option):
    options = {"updates_every": 1}  # by itself a device has its updates read at fewer steps
    bare = train(late, "late", None, option, "SGD")
    recorded = train(late, "late", tmp_path / "late", option, "SGD", **options)
    twin = train(late, "cpu", tmp_path / "cpu", option, "SGD", **options)
    assert recorded.waits == bare.waits
    assert not recorded.operated
    same_numbers(recorded.run, twin.run)
    for mine, theirs, on_cpu in zip(recorded.weights, bare.weights, twin.weights, strict=True):
        torch.testing.assert_close(mine, on_cpu, rtol=2e-4, atol=1e-6)
        if "clip=" not in option:
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", launches.OPTIMIZERS)
def test_each_optimizer_with_weights_and_updates(late, tmp_path, name):
    options = {"weights_every": 1, "updates_every": 1}
    bare = train(late, "late", None, "observing", name)
    recorded = train(late, "late", tmp_path / "late", "observing", name, **options)
    twin = train(late, "cpu", tmp_path / "cpu", "observing", name, **options)
    assert sorted(recorded.waits) == sorted(bare.waits)
    same_numbers(recorded.run, twin.run)
    assert all(map(torch.equal, recorded.weights, bare.weights))


@pytest.mark.parametrize("name", launches.LOOPS)
def test_each_loop(late, tmp_path, name):
    loop, make = launches.LOOPS[name]
    options = {"weights_every": 1, "updates_every": 1}
    bare = train_by(late, "late", None, loop, make, options)
    recorded = train_by(late, "late", tmp_path / "late", loop, make, options)
    twin = train_by(late, "cpu", tmp_path / "cpu", loop, make, options)
    assert recorded.waits == bare.waits
    assert not recorded.operated
    same_numbers(recorded.run, twin.run, steps=2 * STEPS if "two" in name else STEPS)
    assert all(map(torch.equal, recorded.weights, bare.weights))


def test_histograms_of_entries_are_those_of_the_cpu(late, tmp_path):
    recorded = train(late, "late", tmp_path / "late", "observing", weights_every=1)
    twin = train(late, "cpu", tmp_path / "cpu", "observing", weights_every=1)
    assert recorded.waits == []
    for layer in twin.run.layers():
        mine, theirs = recorded.run.magnitudes(layer), twin.run.magnitudes(layer)
        assert len(theirs) == STEPS // 2  # every second sample
        np.testing.assert_array_equal(mine.index, theirs.index)
        # The last digit of an entry at the border of two bins may differ.
        assert np.abs(mine.to_numpy() - theirs.to_numpy()).sum() <= 0.001 * theirs.to_numpy().sum()


def test_capture_waits_once_a_step_for_the_norm_and_nothing_else_does(late, tmp_path):
    bare = train(late, "late", None, "observing")
    recorded = train(late, "late", tmp_path / "run", "observing", capture=True)
    assert bare.waits == []
    assert recorded.waits == ["copy"] * (STEPS - WARM_UP)


def test_a_wait_in_the_training_thread_raises_where_that_is_asked(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = batches("late")
    with gradwatch.attach(net, optimizer, tmp_path / "run", weights_every=1, updates_every=1) as watch, late.no_waits():
        for x in data:
            watch.log(loss=plain(net, optimizer, x))
        with pytest.raises(RuntimeError, match="synchronizing"):
            data[0].sum().item()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms_of_cpu()[0], rtol=1e-5)


def test_a_device_without_copies_behind_the_training_is_recorded_rightly(late, tmp_path, monkeypatch):
    """As Apple's MPS is: what is measured stays there until the recorder's thread fetches it."""
    monkeypatch.setattr(devices, "copies_behind", lambda device: False)
    options = {"weights_every": 1, "updates_every": 1}
    with late.narrow():
        recorded = train(late, "late", tmp_path / "late", "watch.log(loss)", **options)
    twin = train(late, "cpu", tmp_path / "cpu", "watch.log(loss)", **options)
    same_numbers(recorded.run, twin.run)


@pytest.mark.parametrize("option", [name for name in launches.OPTIONS if "clip" in name])
def test_a_device_without_float64_clips_as_the_cpu_does(late, tmp_path, option):
    options = {"weights_every": 1, "updates_every": 1}
    with late.narrow():
        bare = train(late, "late", None, option, "SGD")
        recorded = train(late, "late", tmp_path / "late", option, "SGD", **options)
        twin = train(late, "cpu", tmp_path / "cpu", option, "SGD", **options)
    assert sorted(recorded.waits) == sorted(bare.waits)
    same_numbers(recorded.run, twin.run)
    for name in ("moved", "momentum_cosine", "weight_cosine"):
        mine, theirs = recorded.run.layers(name), twin.run.layers(name)
        assert mine.notna().any(axis=None)
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    for mine, theirs in zip(recorded.weights, twin.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=1e-6)


def small(device):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)


def batches(device, steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 6, generator=generator).to(device) for _ in range(steps)]


def plain(net, optimizer, x):
    optimizer.zero_grad()
    loss = net(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def norms_of_cpu(steps=STEPS):
    """The norms that the recording of `small` under SGD at 0.1 has to find."""
    net = small("cpu")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    norms, losses = [], []
    for x in batches("cpu", steps):
        losses.append(plain(net, optimizer, x).item())
        norms.append(float(torch.cat([p.grad.flatten().double() for p in net.parameters()]).norm()))
    return norms, losses


def test_the_loop_runs_on_while_no_copy_completes(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = batches("late")
    watch = gradwatch.attach(net, optimizer, tmp_path / "run", weights_every=1, updates_every=1)
    with late.held():
        for x in data:
            watch.log(loss=plain(net, optimizer, x))
        assert late.queued > STEPS
    watch.close()
    steps = Run(tmp_path / "run").steps()
    norms, losses = norms_of_cpu()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize("device", ["late:0", "late:1"])
@pytest.mark.parametrize("policy", [None, clip.NormClip(1e9), clip.ZClip()], ids=["none", "norm", "zclip"])
def test_a_loop_on_a_stream_of_its_own(late, tmp_path, device, policy):
    net = small(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = batches(device)
    late.set_delay(0.02)
    with torch.Stream(device=device), gradwatch.attach(net, optimizer, tmp_path / "run", clip=policy) as watch:
        for x in data:
            watch.log(loss=plain(net, optimizer, x))
    steps = Run(tmp_path / "run").steps()
    norms, losses = norms_of_cpu()
    if not isinstance(policy, clip.ZClip):
        np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"][:3], losses[:3], rtol=1e-5)
    assert steps["total_norm"].notna().all()


def train_deep(late, device, folder):
    """Train a model of 66 parameters; return its run and what waited on a thread that is not the recorder's."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(33))).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    data = [torch.randn(4, 8).to(device) for _ in range(20)]
    waits = []
    with gradwatch.attach(net, optimizer, folder) as watch:
        recorders = recording_threads()
        for step, x in enumerate(data):
            if step == WARM_UP:
                late.waits()
            optimizer.zero_grad()
            (net(x).square().sum() * (1000 if step == 17 else 1)).backward()  # the second moment lags behind then
            optimizer.step()
            if step >= WARM_UP:
                waits += [what for thread, what in late.waits() if thread not in recorders]
            if step == 17:  # let the numbers arrive
                torch.accelerator.synchronize()
                watch.flush()
                late.waits()
    return Run(folder), waits


def test_the_updates_of_the_sentinels_of_a_deep_model(late, tmp_path):
    run, waits = train_deep(late, "late", tmp_path / "late")
    twin, _ = train_deep(late, "cpu", tmp_path / "cpu")
    assert waits == []
    assert run.updates("update_norm").index.tolist() == [0, 17]
    for stat in ("update_norm", "rms_ratio", "second_moment_norm"):
        mine, theirs = run.sentinels(stat), twin.sentinels(stat)
        assert mine.index.tolist() == theirs.index.tolist() == list(range(20))
        ends = mine.columns[mine.loc[1].notna()]
        assert len(ends) == 6
        np.testing.assert_allclose(mine[ends], theirs[ends], rtol=2e-4)
    assert len(run.sentinels().loc[19].dropna()) == 10  # those that led at step 17 have joined


def test_pinned_memory_is_given_back_over_a_thousand_steps(late, tmp_path):
    """What is in use after every hundred steps is what a pool has to hold; whoever is late gets fresh buffers."""
    net = small("late")
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    data = batches("late", 100)
    gc.collect()
    before, in_use = late.pinned, []  # earlier cases of this process may still hold some
    options = {"weights_every": 10, "updates_every": 1, "clip": clip.NormClip(1.0)}
    with gradwatch.attach(net, optimizer, tmp_path / "run", **options) as watch:

        def given_back():
            watch.flush()
            torch.accelerator.synchronize()
            torch.ones(1).pin_memory().to("late", non_blocking=True)  # frees what has been copied since
            return late.pinned

        for _ in range(10):
            for x in data:
                watch.log(loss=plain(net, optimizer, x))
            in_use.append(given_back())
        with late.held():  # the device is late: the training thread takes more memory, and does not wait
            late.waits()
            for x in data[:STEPS]:
                plain(net, optimizer, x)
            assert [what for thread, what in late.waits() if thread == threading.get_native_id()] == []
            assert late.pinned > in_use[0] + STEPS
        assert given_back() <= in_use[0] + 3
    assert max(in_use[1:]) <= in_use[0] + 3, in_use
    assert in_use[0] < before + STEPS, (before, in_use)
    assert len(Run(tmp_path / "run").steps()) == 1000 + STEPS


def test_another_device_than_the_current_one(late, tmp_path):
    net = small("late:1")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    late.set_delay(0.02)
    assert torch.accelerator.current_device_index() == 0
    with gradwatch.attach(net, optimizer, tmp_path / "run", weights_every=1) as watch:
        for x in batches("late:1"):
            watch.log(loss=plain(net, optimizer, x))
    steps = Run(tmp_path / "run").steps()
    norms, losses = norms_of_cpu()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize(
    "policy",
    [
        None,
        clip.NormClip(0.05),
        clip.ValueClip(0.01),
        clip.LayerNormClip(0.05),
        clip.AGC(),
        clip.ZClip(),
        clip.AutoClip(),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_model_in_parts_on_host_and_two_devices(late, tmp_path, policy):
    def run(folder, first, second, third):
        torch.manual_seed(0)
        parts = [nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 1)]
        places = [first, second, third]
        net = nn.ModuleList(part.to(place) for part, place in zip(parts, places, strict=True))
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with gradwatch.attach(net, optimizer, folder, clip=copy.deepcopy(policy), weights_every=1) as watch:
            for batch in batches("cpu"):
                x = batch
                optimizer.zero_grad()
                for part, place in zip(net, places, strict=True):
                    x = torch.tanh(part(x.to(place)))
                loss = x.square().mean()
                loss.backward()
                optimizer.step()
                watch.log(loss=loss)
        return Run(folder), [parameter.detach().cpu() for parameter in net.parameters()]

    late.set_delay(0.01)
    spread = run(tmp_path / "spread", "cpu", "late:0", "late:1")
    twin = run(tmp_path / "twin", "cpu", "cpu", "cpu")
    same_numbers(spread[0], twin[0])
    for mine, theirs in zip(spread[1], twin[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def scaled(late, device, folder, scaler):
    net = small(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = batches(device)
    watch = None if folder is None else gradwatch.attach(net, optimizer, folder, weights_every=1)
    recorders = recording_threads()
    late.waits()
    for step, x in enumerate(data):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        scaler.scale(loss * (float("inf") if step == 5 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    waits = [what for thread, what in late.waits() if thread not in recorders]
    if watch is not None:
        watch.close()
    return [parameter.detach().cpu() for parameter in net.parameters()], waits


def test_a_grad_scaler_skips_an_overflow(late, tmp_path):
    def of(device):
        return torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=1000)

    late.set_delay(0.01)
    bare, waits_of_bare = scaled(late, "late", None, of("late"))
    mine, waits = scaled(late, "late", tmp_path / "late", of("late"))
    assert sorted(waits) == sorted(waits_of_bare)
    assert all(map(torch.equal, mine, bare))
    scaled(late, "cpu", tmp_path / "cpu", of("cpu"))
    same_numbers(Run(tmp_path / "late"), Run(tmp_path / "cpu"))
    assert Run(tmp_path / "late").steps()["skipped"].tolist() == [step == 5 for step in range(STEPS)]


def test_the_route_is_told_for_each_kind_of_device(late, tmp_path):
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).to("late:0"), nn.Linear(2, 2).to("late:1")])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with gradwatch.attach(net, optimizer, tmp_path / "run") as watch:
        route = watch.route
    assert route.startswith(("the compiled pass", "PyTorch's operators; "))
    gradients, _, updates = route.partition("; updates by ")
    assert gradients.endswith(
        "; PyTorch's operators on late, whose results are copied behind the training; zeros are counted every 16 steps"
    )
    assert updates.startswith(("the compiled pass", "PyTorch's operators on cpu"))
    assert updates.endswith("; PyTorch's operators on late")


def test_another_thread_closes_the_recording(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = batches("late")
    late.set_delay(0.05)
    watch = gradwatch.attach(net, optimizer, tmp_path / "run")
    with torch.Stream(device="late"):
        for x in data:
            watch.log(loss=plain(net, optimizer, x))
        closer = threading.Thread(target=watch.close)
        closer.start()
        closer.join()
    steps = Run(tmp_path / "run").steps()
    norms, losses = norms_of_cpu()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)


def test_the_loop_runs_in_another_thread_than_attach(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    late.set_delay(0.02)
    data = batches("late")

    def loop():
        with torch.Stream(device="late"):
            for x in data:
                watch.log(loss=plain(net, optimizer, x))

    with gradwatch.attach(net, optimizer, tmp_path / "run") as watch:
        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["total_norm"], norms_of_cpu()[0], rtol=1e-5)


def test_a_rate_in_a_tensor_on_the_device(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), torch.tensor(0.1, device="late"))
    data = batches("late")
    plain(net, optimizer, data[0])
    late.waits()
    plain(net, optimizer, data[0])
    own_waits = len(late.waits())
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), torch.tensor(0.1, device="late"))
    late.set_delay(0.02)
    with gradwatch.attach(net, optimizer, tmp_path / "run", weights_every=1, updates_every=1):
        for x in batches("late"):
            late.waits()
            plain(net, optimizer, x)
            assert len([what for thread, what in late.waits() if thread == threading.get_native_id()]) == own_waits
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["learning_rate"], [0.1] * STEPS, rtol=1e-6)
    np.testing.assert_allclose(steps["total_norm"], norms_of_cpu()[0], rtol=1e-5)


@pytest.mark.parametrize("is_shared", [True, False])
def test_rates_on_the_device_of_optimizers_within_backward(late, tmp_path, is_shared):
    net = small("late")
    shared = torch.tensor(0.1, device="late")
    optimizers = {
        p: torch.optim.Adam([p], shared if is_shared else shared.clone(), fused=True) for p in net.parameters()
    }

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(step)
    data = batches("late")
    with gradwatch.attach(net, list(optimizers.values()), tmp_path / "run"):
        own = threading.get_native_id()
        for x in data:
            late.waits()
            net(x).square().mean().backward()
            assert [what for thread, what in late.waits() if thread == own] == []
    np.testing.assert_allclose(Run(tmp_path / "run").steps()["learning_rate"], [0.1] * STEPS, rtol=1e-6)


def test_an_update_that_is_not_finite_is_skipped(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, fused=True)
    with gradwatch.attach(net, optimizer, tmp_path / "run", skip_nonfinite=True):
        for step, x in enumerate(batches("late")):
            plain(net, optimizer, x * (float("nan") if step == 5 else 1))
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert Run(tmp_path / "run").steps()["skipped"].tolist() == [step == 5 for step in range(STEPS)]


def test_an_optimizer_that_would_have_to_wait_does_not_skip_and_says_so(late, tmp_path, caplog):
    net = small("late")
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with gradwatch.attach(net, optimizer, tmp_path / "run", skip_nonfinite=True):
        for step, x in enumerate(batches("late")):
            plain(net, optimizer, x * (float("nan") if step == 5 else 1))
    assert not Run(tmp_path / "run").steps()["skipped"].any()
    assert "(skip-not-applied)" in caplog.text


def test_a_bad_step_is_captured_with_the_values_of_its_batch(late, tmp_path):
    net = small("late")
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    data = batches("late", 8)
    data[6][2] = float("nan")
    late.set_delay(0.02)
    with gradwatch.attach(net, optimizer, tmp_path / "run", capture=True):
        for x in data:
            plain(net, optimizer, x)
    (found,) = list_captures(tmp_path / "run")
    assert (found.step, found.why, found.replayable) == (6, "nonfinite", True)
    kept = read(found.folder)
    ((args, devices),) = [(one.args, one.devices) for group in kept.groups for one in group.forwards]
    assert devices == ("late:0",)
    torch.testing.assert_close(args[0].cpu(), data[6].cpu(), rtol=0, atol=0, equal_nan=True)
