"""Recording beside real training: the numbers against ones computed by hand, and training untouched."""

import copy
import gc
import itertools
import math
import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip, ValueClip
from gradwatch.errors import BadArgument, RunInUse
from gradwatch.recording.sink import INTERVAL
from gradwatch.store import StoreReader
from gradwatch.testing import steady

from ...prepared import forked
from .nets import CLIPS, OPTIMIZERS, backward, make, train, train_scaled


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_equal_bit_for_bit(tmp_path, optimizer, clip):
    """Weights, optimizer state and random state after 50 steps, with and without us."""

    def final(run):
        model, opt = make(optimizer)
        if run is None:
            train(model, opt, 50, clip)
        else:
            with gradwatch.attach(model, opt, run) as watch:
                train(model, opt, 50, clip, watch)
        return model.state_dict(), opt.state_dict()["state"], torch.get_rng_state()

    weights, state, random = final(None)
    weights2, state2, random2 = final(tmp_path / "run")
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert all(torch.equal(state[i][k], state2[i][k]) for i in state for k in state[i] if state[i][k] is not None)
    assert torch.equal(random, random2)
    assert len(Run(tmp_path / "run").steps()) == 50


def test_weights_and_updates_are_sampled(tmp_path):
    model, optimizer = make()
    before, after = [], []
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=10):
        for _ in range(25):
            before.append([p.detach().clone() for p in model.parameters()])
            train(model, optimizer, 1)
            after.append([p.detach().clone() for p in model.parameters()])
    run = Run(tmp_path / "run")
    assert run.layers("weight_norm").index.tolist() == [0, 10, 20]
    for step in (0, 10, 20):
        norms = [w.norm().item() for w in before[step]]
        updates = [(b - a).norm().item() for a, b in zip(before[step], after[step], strict=True)]
        np.testing.assert_allclose(run.layers("weight_norm").loc[step], norms, rtol=1e-6)
        np.testing.assert_allclose(run.layers("update_norm").loc[step], updates, rtol=1e-6)
        np.testing.assert_allclose(run.layers("update_ratio").loc[step], np.divide(updates, norms), rtol=1e-6)


@pytest.mark.parametrize("order", ["after the step", "before the step"])
def test_the_loss_belongs_to_its_step(tmp_path, order):
    model, optimizer = make()
    losses = []
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for step in range(6):
            loss = backward(model, optimizer)
            if step == 3:
                loss = torch.tensor(math.nan)
            losses.append(loss.item())
            if order == "before the step" and step != 4:
                watch.log(loss=loss)
            optimizer.step()
            if order == "after the step" and step != 4:
                watch.log(loss=loss)
    steps = Run(tmp_path / "run").steps()
    assert steps["loss_logged"].tolist() == [True, True, True, True, False, True]
    np.testing.assert_allclose(steps["loss"].drop(4), [x for i, x in enumerate(losses) if i != 4])


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("0.5", "loss is '0.5', a str"),
        (torch.ones(3), r"loss has shape (3,); expected one value"),
        (object(), "expected a number or a tensor"),
        (torch.tensor(1j), "complex"),
    ],
)
def test_a_loss_that_is_none_is_said_once_and_left_out(tmp_path, caplog, loss, says):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 1)
        watch.log(loss=loss)
        watch.log(loss=loss)
        train(model, optimizer, 1)
    assert [says in record.getMessage() for record in caplog.records] == [True]
    assert Run(tmp_path / "run").steps()["loss_logged"].tolist() == [False, False]


@pytest.mark.parametrize("value", [1, 2.5, np.float32(0.5), torch.tensor(3.0), torch.tensor([4.0]), True])
def test_any_number_is_a_loss(tmp_path, value):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 1)
        watch.log(loss=value)
    assert Run(tmp_path / "run").steps()["loss"].tolist() == [float(value)]


def test_the_parameter_with_the_nan_is_found_although_clipping_spreads_it(tmp_path):
    model, optimizer = make()

    def poison(step):
        if step == 5:
            model.rnn.weight_hh_l0.grad[0, 0] = math.nan

    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 6, "clipped by norm", watch, poison)
    run = Run(tmp_path / "run")
    counts = run.layers("nonfinite").loc[5]
    assert counts[counts > 0].to_dict() == {"rnn.weight_hh_l0": 1}
    (event,) = run.events()
    assert (event.step, event.kind, event.parameter) == (5, "nonfinite", "rnn.weight_hh_l0")
    assert math.isnan(run.steps().loc[5, "clip_coef"])


SCALED = [
    (optimizer, clip, unscale)
    for optimizer in ("SGD", "AdamW fused")
    for clip in (None, "before unscaling", "after unscaling")
    for unscale in (False, True)
    if unscale or clip != "after unscaling"
]


@pytest.mark.parametrize(("optimizer", "clip", "unscale"), SCALED)
def test_with_a_grad_scaler_the_gradient_is_unscaled_and_a_back_off_is_a_skipped_step(
    tmp_path, optimizer, clip, unscale
):
    """Traps 1, 2, 4 and 25, against the norm computed by hand."""
    model, opt = make(optimizer)
    with gradwatch.attach(model, opt, tmp_path / "run") as watch:
        norms, scales = train_scaled(model, opt, clip, unscale, watch)
    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(8))
    assert steps["skipped"].tolist() == [step == 3 for step in range(8)]
    assert steps["loss_scale"].tolist() == scales
    assert scales[3] > scales[4]
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    assert steps["loss"].tolist() == [float(step) for step in range(8)]
    ineffective = [(0, "ineffective-clipping")] if clip == "before unscaling" else []
    assert [(e.step, e.kind) for e in run.events()] == [*ineffective, (3, "loss-scale")]
    if clip is not None:
        made = steps.drop(3)
        unit = made["loss_scale"] if clip == "before unscaling" else 1.0
        np.testing.assert_allclose(made["max_norm"], 0.25 / unit, rtol=1e-6)
        np.testing.assert_allclose(made["clip_coef"], np.minimum(1, made["max_norm"] / made["total_norm"]), rtol=1e-4)


@pytest.mark.parametrize(("optimizer", "clip", "unscale"), SCALED)
def test_with_a_grad_scaler_training_is_equal_bit_for_bit(tmp_path, optimizer, clip, unscale):
    model, opt = make(optimizer)
    train_scaled(model, opt, clip, unscale)
    expected = copy.deepcopy(model.state_dict())
    model, opt = make(optimizer)
    with gradwatch.attach(model, opt, tmp_path / "run"):
        train_scaled(model, opt, clip, unscale)
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())


def test_a_disabled_scaler_changes_nothing(tmp_path):
    model, optimizer = make()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            backward(model, optimizer)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == 3
    assert steps["loss_scale"].isna().all()


def test_clip_gives_the_weights_that_torchs_function_gives(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 30, "clipped by norm")
    expected = copy.deepcopy(model.state_dict())
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.5)):
        train(model, optimizer, 30)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    steps = Run(tmp_path / "run").steps()
    assert (steps["max_norm"] == 0.5).all()
    np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, 0.5 / (steps["total_norm"] + 1e-6)))


@pytest.mark.parametrize("unscale", [True, False])
def test_a_policy_under_a_scaler_clips_unscaled_gradients_or_says_that_it_does_not(tmp_path, caplog, unscale):
    model, optimizer = make("AdamW fused")
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(0.25)):
        norms, _ = train_scaled(model, optimizer, None, unscale)
    steps = Run(tmp_path / "run").steps().drop(3)
    np.testing.assert_allclose(steps["total_norm"], [n for i, n in enumerate(norms) if i != 3], rtol=1e-5)
    if unscale:
        np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, 0.25 / (steps["total_norm"] + 1e-6)), rtol=1e-6)
    else:
        assert (steps["clip_coef"] == 1).all()
    assert ("clip-not-applied" in caplog.text) is not unscale


def test_value_clip_policy_is_recorded(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=ValueClip(1e-3)):
        train(model, optimizer, 3)
    steps = Run(tmp_path / "run").steps()
    assert steps["clipped"].all()
    assert (steps["clipped_fraction"] > 0.5).all()


def test_a_compiled_models_names_have_no_prefix(tmp_path):
    """Trap 11: `_orig_mod.` would split a history."""
    model, _ = make()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    with gradwatch.attach(compiled, optimizer, tmp_path / "run"):
        train(compiled, optimizer, 2)
    assert Run(tmp_path / "run").layers("norm").columns[0] == "rnn.weight_ih_l0"


def test_a_model_copied_while_attached_carries_nothing_of_ours(tmp_path):
    """Trap 30."""
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
        twin = copy.deepcopy(model)
        other = copy.deepcopy(optimizer)
        train(twin, torch.optim.SGD(twin.parameters(), 0.1), 3)
        assert not other._optimizer_step_pre_hooks
    assert len(Run(tmp_path / "run").steps()) == 2


def test_on_event_is_called_in_the_training_thread(tmp_path):
    model, optimizer = make()
    got = []

    def poison(step):
        if step == 2:
            model.out.weight.grad.fill_(math.nan)

    with gradwatch.attach(model, optimizer, tmp_path / "run", on_event=got.append) as watch:
        train(model, optimizer, 4, each=poison)
        watch.flush()
        train(model, optimizer, 1)
        assert [(event.kind, event.step) for event in got] == [("nonfinite", 2)]


def test_a_callback_may_add_an_optimizer(tmp_path):
    """It is called within a step, and adding changes what the step goes through."""
    model, optimizer = make()
    later_model, later = make()
    added = []

    def add(event):
        if not added:
            added.append(event.kind)
            watch.add("later", later_model, later)

    with gradwatch.attach(model, optimizer, tmp_path / "run", on_event=add) as watch:
        train(model, optimizer, 3)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
        optimizer.step()
        watch.flush()
        train(model, optimizer, 2)
        train(later_model, later, 4)
    run = Run(tmp_path / "run")
    assert added
    assert {name: len(run.steps(optimizer=name)) for name in run.optimizers} == {"0": 6, "later": 4}


@pytest.mark.parametrize("swap", ["model", "optimizer"])
def test_adding_what_is_no_optimizer_is_an_error_and_the_recording_goes_on(tmp_path, swap):
    model, optimizer = make()
    later_model, later = make()
    wrong = (later, later) if swap == "model" else (later_model, later_model)
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 2)
        with pytest.raises(BadArgument, match=f"^{swap} is a "):
            watch.add("later", *wrong)
        train(model, optimizer, 2)
    assert list(Run(tmp_path / "run").optimizers) == ["0"]
    assert len(Run(tmp_path / "run").steps()) == 4


def test_the_optimizer_inside_a_wrapper_is_the_one_that_is_added(tmp_path):
    """`attach` unwraps those of Accelerate and Fabric too."""
    model, optimizer = make()
    later_model, later = make()
    wrapper = SimpleNamespace(optimizer=later)
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        watch.add("later", later_model, wrapper)
        train(later_model, later, 3)
    assert len(Run(tmp_path / "run").steps(optimizer="later")) == 3


@pytest.mark.parametrize("taken", ["name", "optimizer"])
def test_adding_a_name_or_an_optimizer_twice_is_an_error_and_the_recording_goes_on(tmp_path, taken):
    model, optimizer = make()
    later_model, later = make()
    wrong = ("0", later_model, later) if taken == "name" else ("later", model, optimizer)
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 2)
        with pytest.raises(BadArgument, match="'0'"):
            watch.add(*wrong)
        train(model, optimizer, 2)
        train(later_model, later, 1)
    assert list(Run(tmp_path / "run").optimizers) == ["0"]
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 1, 2, 3]


def test_the_name_of_an_optimizer_that_is_gone_may_be_used_again(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        for _ in range(2):
            later_model, later = make()
            watch.add("fold", later_model, later)
            train(later_model, later, 3)
            del later_model, later
            gc.collect()
        assert watch.optimizers == ["0", "fold"]
    assert Run(tmp_path / "run").steps("fold").index.tolist() == list(range(6))


def test_a_callback_that_raises_is_said_and_not_called_again(tmp_path, caplog):
    model, optimizer = make()
    calls = []

    def callback(event):
        calls.append(event)
        raise KeyError("mine")

    with gradwatch.attach(model, optimizer, tmp_path / "run", on_event=callback):
        for poisoned in (1, 60):
            train(model, optimizer, 60, each=lambda s, p=poisoned: s == p % 60 and model.out.bias.grad.fill_(math.nan))
    assert len(calls) == 1
    assert ["on-event" in record.getMessage() for record in caplog.records] == [True]


SCRIPT = """
    import os, sys, time
    import torch
    import gradwatch
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    watch = gradwatch.attach(model, optimizer, sys.argv[1])
    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
"""


def start(tmp_path: Path, end: str, *, bare: bool = False) -> subprocess.Popen:
    """Start the script; ``bare`` in a process that has imported nothing."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(end))
    command = [str(script), str(tmp_path / "run")]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
    return subprocess.Popen([sys.executable, *command], **pipes) if bare else forked().start(command, **pipes)


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        pytest.param("train(50)", 0, "exit", id="the end of the script"),
        pytest.param("train(50); sys.exit(7)", 7, "exit", id="sys.exit"),
        pytest.param("with watch:\n    train(50); sys.exit(7)", 7, "exit 7", id="with"),
        pytest.param("train(50); raise ValueError('mine')", 1, "exception ValueError", id="an exception"),
        pytest.param(
            "def steps():\n    with watch:\n        train(50); yield\n        train(50)\nfor _ in steps(): break",
            *(0, "closed"),
            id="a generator that is left",
        ),
        pytest.param("train(50); os.kill(os.getpid(), 15); time.sleep(9)", -15, "signal SIGTERM", id="SIGTERM"),
        pytest.param(
            "train(50); os.kill(os.getpid(), 2); time.sleep(9)", -2, "exception KeyboardInterrupt", id="Ctrl-C"
        ),
    ],
)
def test_however_a_script_ends_its_last_step_is_recorded(tmp_path, end, code, reason):
    process = start(tmp_path, end, bare=reason in ("exit", "signal SIGTERM") and code != 7)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "gradwatch" not in errors.replace(str(tmp_path), "")
    run = Run(tmp_path / "run")
    assert len(run.steps()) == 50
    assert run.attempts()[0].reason == reason


def test_after_kill_9_the_store_opens_and_lacks_at_most_the_last_second(tmp_path):
    assert INTERVAL < 1.0
    process = start(
        tmp_path, "train(200); print('ready', flush=True); sys.stdin.readline(); train(5); os.kill(os.getpid(), 9)"
    )
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 60
    with StoreReader(tmp_path / "run") as reader:
        while reader.next_step("0") < 199 and time.monotonic() < deadline:  # nobody asks for a commit
            time.sleep(0.02)
    process.communicate("\n", timeout=60)
    assert process.returncode == -9
    before = sorted(os.listdir(tmp_path / "run"))
    run = Run(tmp_path / "run")
    steps = run.steps()
    # the newest step waits for its loss until the next one begins
    assert 199 <= len(steps) <= 205
    assert steps.index.tolist() == list(range(len(steps)))
    assert run.attempts()[0].ended is None
    assert not run.summary().running, "a killed process is told from a living one"
    del run
    assert sorted(os.listdir(tmp_path / "run")) == before


def test_sigterm_closes_every_open_run(tmp_path):
    end = """
    other = torch.nn.Linear(3, 1)
    second_optimizer = torch.optim.SGD(other.parameters(), 0.1)
    second = gradwatch.attach(other, second_optimizer, sys.argv[1] + "-2")
    train(5)
    other(torch.randn(4, 3)).sum().backward()
    second_optimizer.step()
    watch.close()
    os.kill(os.getpid(), 15)
    time.sleep(9)
    """
    process = start(tmp_path, end)
    process.communicate(timeout=60)
    assert process.returncode == -15
    assert Run(tmp_path / "run").attempts()[0].reason == "closed"
    assert Run(tmp_path / "run-2").attempts()[0].reason == "signal SIGTERM"
    assert len(Run(tmp_path / "run-2").steps()) == 1


def test_a_run_that_a_fault_ended_can_be_continued_in_the_same_process(tmp_path, monkeypatch):
    model, optimizer = make()
    with monkeypatch.context() as patched, gradwatch.attach(model, optimizer, tmp_path / "run") as watch:
        train(model, optimizer, 3)
        watch.flush()
        patched.setattr("gradwatch.store.writer.StoreWriter.append", lambda *a: 1 / 0)
        train(model, optimizer, 3)
    assert Run(tmp_path / "run").attempts()[0].reason == "fault"
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(5))


def test_a_killed_run_can_be_continued(tmp_path):
    process = start(tmp_path, "train(20); watch.flush(); os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    process = start(tmp_path, "train(20)")
    assert process.wait(timeout=60) == 0
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(40))


def test_a_run_being_written_is_read_and_refused_to_a_second_writer(tmp_path):
    process = start(
        tmp_path, "train(30); watch.flush(); print('ready', flush=True); sys.stdin.read() or time.sleep(60)"
    )
    try:
        assert process.stdout.readline() == "ready\n"
        run = Run(tmp_path / "run")
        assert len(run.steps()) == 30
        assert run.summary().running
        model, optimizer = make()
        with pytest.raises(RunInUse, match=f"written by process {process.pid}"):
            gradwatch.attach(model, optimizer, tmp_path / "run")
    finally:
        process.kill()
        process.communicate()


def _child(optimizer, model, queue):
    train(model, optimizer, 5)
    queue.put("done")


def test_a_forked_child_does_not_write(tmp_path):
    """Trap 27: workers of a DataLoader are forks too."""
    model, optimizer = make()
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 3)
        queue = context.Queue()
        child = context.Process(target=_child, args=(optimizer, model, queue))
        child.start()
        assert queue.get(timeout=30) == "done"
        child.join(30)
        assert child.exitcode == 0
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(5))


def test_dataloader_workers_are_left_alone(tmp_path):
    model, optimizer = make()
    data = torch.utils.data.DataLoader(torch.randn(32, 4, 3), batch_size=8, num_workers=2)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for batch in data:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    assert len(Run(tmp_path / "run").steps()) == 4


def test_a_full_queue_drops_and_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gradwatch.recording.opened_sink.QUEUE_BYTES", 1)
    monkeypatch.setattr("gradwatch.recording.sink.INTERVAL", 60.0)
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 200)
    run = Run(tmp_path / "run")
    assert len(run.steps()) + run.attempts()[0].dropped == 200
    assert run.summary().dropped_steps > 0
    assert "steps-dropped" in caplog.text
    with StoreReader(tmp_path / "run") as reader:
        assert reader.attempts()[0].reason == "closed"


def record_norms(folder, norms, cuts=()):
    """Record gradients of these norms, in as many attempts as there are pieces between the cuts."""
    edges = [0, *cuts, len(norms)]
    for begin, end in itertools.pairwise(edges):
        model = nn.Linear(4, 4, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gradwatch.attach(model, optimizer, folder):
            for norm in norms[begin:end]:
                model.weight.grad = torch.full((4, 4), norm / 4)
                optimizer.step()
    return [
        (e.step, e.kind, e.severity, e.parameter, e.until, e.message)
        for e in Run(folder).events()
        if e.kind != "resumed"
    ]


def test_a_resumed_run_has_the_events_of_one_that_went_through(tmp_path):
    """Cut where a spike is not over, within growth, and more than a thousand steps after a fall began."""
    norms = steady(1900)
    norms[300] = 50.0
    norms[420:440] = [1.3**i for i in range(20)]
    norms[600:] = [1e-5 * norm for norm in norms[600:]]
    whole = record_norms(tmp_path / "whole", norms)
    assert {kind for _, kind, *_ in whole} >= {"spike", "explosion", "vanishing"}
    assert record_norms(tmp_path / "cut", norms, cuts=(310, 430, 1750)) == whole


def first_nan(tmp_path, spoil):
    """The event of a training that ``spoil`` makes not finite at step 7."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(10):
            x = torch.randn(8, 3)
            optimizer.zero_grad()
            model(spoil(model, x) if step == 7 else x).square().mean().backward()
            optimizer.step()
    (event,) = [event for event in Run(tmp_path / "run").events() if event.kind == "nonfinite"]
    assert event.step == 7
    return event


def spoil_weight(model, x):
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    return x


def spoil_backward(model, x):
    handle = model[2].register_forward_hook(lambda *args: args[2].register_hook(lambda g: g * math.nan) and None)
    model.register_forward_hook(lambda *_: handle.remove())
    return x


@pytest.mark.parametrize(
    ("spoil", "origin", "parameter"),
    [
        pytest.param(spoil_weight, "weights", "2.weight", id="a weight"),
        pytest.param(lambda model, x: x * math.nan, "loss", None, id="the input"),
        pytest.param(spoil_backward, "backward", "2.bias", id="the backward pass"),
    ],
)
def test_where_a_nan_began_is_told(tmp_path, spoil, origin, parameter):
    event = first_nan(tmp_path, spoil)
    assert (event.origin, event.parameter) == (origin, parameter)
    finding, *_ = Run(tmp_path / "run").diagnosis()
    assert finding.severity == "critical"
    assert finding.code.startswith("nonfinite")
