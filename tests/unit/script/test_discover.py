"""Finding the models and optimizers of a script that attaches nothing."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gradwatch import Run
from gradwatch.errors import TrainingStopped
from gradwatch.script.discover import Discovery, owner_of
from gradwatch.script.plan import ClipPlan, RecordingPlan

from ...readers import Read


class Begin(Protocol):
    def __call__(self, **options: Any) -> Discovery: ...


@pytest.fixture
def begin(tmp_path) -> Iterator[Begin]:
    """Begin to listen, as `gradwatch run` does when torch is imported."""
    begun: list[Discovery] = []

    def listen(**options: Any) -> Discovery:
        begun.append(Discovery(RecordingPlan(run=tmp_path / "run", **options)))
        return begun[-1]

    yield listen
    for discovery in begun:
        discovery.close("the test ended")


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: Optimizer | None, steps: int = 3, clip: float | None = None) -> list[float]:
    losses = []
    for _ in range(steps):
        model.zero_grad()
        loss = model(torch.randn(8, 3)).square().mean()
        loss.backward()
        losses.append(loss.item())
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        if optimizer is not None:
            optimizer.step()
    return losses


def test_an_optimizer_is_recorded_from_its_first_step(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    losses = train(model, sgd(model))
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert run.steps()["loss"].tolist() == pytest.approx(losses)
    assert run.layers("norm").columns.tolist() == ["weight", "bias"]
    assert run.optimizers == {"0": "SGD"}
    assert run.attempts()[0].reason == "exit"
    assert discovery.steps == 3


def test_the_first_loss_too_is_that_before_scaling(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    optimizer, scaler, losses = sgd(model), torch.amp.GradScaler("cpu", init_scale=2.0**127), []
    for _ in range(2):
        optimizer.zero_grad()
        loss = 16 + model(torch.ones(1, 3)).square().mean()
        assert scaler.scale(loss).isinf()
        scaler.scale(loss).backward()
        losses.append(loss.item())
        scaler.step(optimizer)
        scaler.update()
    discovery.close("exit")
    assert Run(tmp_path / "run").steps()["loss"].tolist() == pytest.approx(losses)


def test_a_script_that_resumes_from_a_checkpoint_begins_at_the_step_that_was_given(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    before = train(model, sgd(model), steps=6)
    discovery.close("exit")
    discovery = begin(first_step=4)
    after = train(model, sgd(model))
    discovery.close("exit")
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == list(range(7))
    assert steps["loss"].tolist() == pytest.approx(before[:4] + after)
    assert steps["attempt"].tolist() == [0] * 4 + [1] * 3


@pytest.mark.parametrize(("first_step", "expected"), [(None, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 1, 2, 3, 4, 5])])
def test_a_limit_of_steps_counts_those_of_this_script_alone(tmp_path, begin, first_step, expected):
    discovery = begin()
    model = nn.Linear(3, 1)
    train(model, sgd(model))
    discovery.close("exit")
    discovery = begin(steps=4, first_step=first_step)
    with pytest.raises(SystemExit):
        train(model, sgd(model), steps=20)
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == expected
    assert run.summary().total_steps == len(expected)


def test_nothing_is_written_before_something_trains(tmp_path, begin):
    discovery = begin()
    sgd(nn.Linear(3, 1))
    assert not (tmp_path / "run").exists()
    discovery.close("exit")
    assert not (tmp_path / "run").exists()
    assert (discovery.optimizers_seen, discovery.backwards, discovery.steps) == (1, 0, 0)


def test_several_optimizers_are_named_in_the_order_in_which_they_were_made(tmp_path, begin):
    discovery = begin()
    models = [nn.Linear(3, 1), nn.Linear(3, 2)]
    optimizers = [sgd(models[0]), torch.optim.Adam(models[1].parameters())]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, steps=2)
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert run.optimizers == {"0": "SGD", "1": "Adam"}
    assert (len(run.steps("0")), len(run.steps("1"))) == (2, 2)


def test_an_optimizer_that_is_made_later_is_found_too(tmp_path, begin):
    discovery = begin()
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    train(first, sgd(first))
    losses = train(second, sgd(second))
    discovery.close("exit")
    assert Run(tmp_path / "run").steps("1")["loss"].tolist() == pytest.approx(losses)


def test_an_optimizer_that_is_gone_before_its_first_gradient_is_no_optimizer_of_the_run(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    sgd(model)
    gc.collect()
    train(model, sgd(model))
    discovery.close("exit")
    assert list(Run(tmp_path / "run").optimizers) == ["0"]
    assert discovery.optimizers_seen == 2


class Wrapper(Optimizer):
    """Holds the optimizer that steps, and has no `step` of its own."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)

    def second_step(self) -> None:
        self.inner.step()


def test_a_wrapper_that_never_steps_is_no_optimizer_of_the_run(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    wrapper = Wrapper(model.parameters())
    for _ in range(3):
        train(model, None, steps=1)
        wrapper.second_step()
    discovery.close("the script ended")
    summary = Run(tmp_path / "run").summary()
    assert (summary.optimizer_class, summary.steps) == ("SGD", 3)


def test_a_wrapper_around_an_optimizer_that_is_recorded_adds_no_steps(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    inner = sgd(model)
    train(model, inner, steps=2)
    outer = sgd(model)
    outer.__dict__["inner"] = inner
    train(model, inner, steps=2)
    discovery.close("the script ended")
    run = Run(tmp_path / "run")
    assert (list(run.optimizers), len(run.steps())) == (["0"], 4)


def test_a_step_without_backward_finds_its_optimizer(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    discovery.close("exit")
    assert Run(tmp_path / "run").steps()["total_norm"].tolist() == pytest.approx([2.0])


def test_a_loop_without_optimizer_is_recorded_at_its_clip_calls(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    losses = train(model, None, clip=0.01)
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert run.steps()["loss"].tolist() == pytest.approx(losses)
    assert (run.steps()["max_norm"] == 0.01).all()
    assert run.layers("norm").columns.tolist() == ["weight", "bias"]


def test_a_clip_call_without_gradients_makes_no_run(tmp_path, begin):
    discovery = begin()
    clip_grad_norm_(nn.Linear(3, 1).parameters(), 1.0)
    discovery.close("exit")
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------- what it changes


@pytest.mark.parametrize("clip", [None, 5.0], ids=["a script that does not clip", "a script that clips"])
def test_a_threshold_takes_the_place_of_the_scripts(tmp_path, begin, clip):
    discovery = begin(max_norm=0.01)
    model = nn.Linear(3, 1)
    train(model, sgd(model), clip=clip)
    discovery.close("exit")
    steps = Run(tmp_path / "run").steps()
    assert (steps["max_norm"] == 0.01).all()
    assert steps["clipped"].all()


def test_an_infinite_threshold_turns_clipping_off(tmp_path, begin):
    discovery = begin(max_norm=math.inf)
    model = nn.Linear(3, 1)
    train(model, sgd(model), clip=0.01)
    discovery.close("exit")
    assert not Run(tmp_path / "run").steps()["clipped"].any()


def test_a_script_is_ended_after_its_steps(tmp_path, begin):
    discovery = begin(steps=2)
    model = nn.Linear(3, 1)
    with pytest.raises(SystemExit):
        train(model, sgd(model), steps=5)
    discovery.close("exit")
    assert len(Run(tmp_path / "run").steps()) == 2


# ------------------------------------------------------------------------------ faults and the end


def test_a_run_that_can_not_be_written_is_said_once_and_leaves_the_training_alone(tmp_path, begin, caplog):
    (tmp_path / "run").write_text("a file in the way")
    discovery = begin()
    model = nn.Linear(3, 1)
    train(model, sgd(model))
    other = nn.Linear(3, 1)
    train(other, sgd(other))
    assert discovery.failed
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        message for message in caplog.messages if "gradwatch does not record this run" in message
    ]
    assert len(caplog.records) == 1


def test_closing_leaves_nothing_behind(tmp_path, begin):
    before = Optimizer.__init__
    discovery = begin(max_norm=0.01, steps=100)
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    train(model, optimizer)
    discovery.close("exit")
    assert Optimizer.__init__ is before
    assert not optimizer._optimizer_step_pre_hooks
    model.weight.grad.fill_(100.0)
    assert clip_grad_norm_(model.parameters(), 1e6) > 100
    assert model.weight.grad.max() == 100.0, "the threshold is the script's again"
    train(model, optimizer)
    assert len(Run(tmp_path / "run").steps()) == 3


def test_of_processes_that_torchrun_started_and_that_train_alone_the_first_records(tmp_path, begin, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    discovery = begin()
    model = nn.Linear(3, 1)
    train(model, sgd(model))
    discovery.close("exit")
    assert discovery.steps == 0
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------- owner_of


def test_the_owner_is_the_outermost_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert owner_of(sgd(model)) is model
    assert owner_of(torch.optim.SGD(model[0].parameters(), 0.1)) is model


def test_the_owner_of_parameters_of_no_module_is_empty():
    assert list(owner_of(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)).parameters()) == []


def test_several_owners_stand_in_the_order_of_the_parameters():
    first, second = nn.Linear(2, 2), nn.Bilinear(2, 2, 2)
    optimizer = torch.optim.SGD([*second.parameters(), *first.parameters()], 0.1)
    owner = owner_of(optimizer)
    assert isinstance(owner, nn.ModuleDict)
    assert {name: id(module) for name, module in owner.items()} == {"Bilinear0": id(second), "Linear1": id(first)}


def test_a_module_without_a_parameter_of_the_optimizer_is_no_owner():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert owner_of(sgd(model)) is model
    assert other is not model


def test_a_policy_takes_the_place_of_the_scripts_own_clip_calls(tmp_path, begin):
    discovery = begin(clip=ClipPlan(policy="NormClip", number=0.01))
    model = nn.Linear(3, 1)
    train(model, sgd(model), clip=0.5)
    discovery.close("closed")
    steps = Run(tmp_path / "run").steps()
    assert steps["max_norm"].tolist() == [0.01] * 3
    assert (steps["clip_coef"] < 1).all()
    assert Run(tmp_path / "run").meta()["clip.0"] == "NormClip(max_norm=0.01)"


def test_an_event_that_was_named_ends_the_script(tmp_path, begin):
    discovery = begin(stop_on=("nonfinite",))
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    train(model, optimizer)
    with pytest.raises(TrainingStopped, match="nonfinite"):
        for _ in range(200):
            model.zero_grad()
            (model(torch.ones(1, 3)) * float("nan")).sum().backward()
            optimizer.step()
            discovery.watch.flush()


def test_only_each_nth_step_is_recorded(tmp_path, begin):
    discovery = begin(every=4)
    model = nn.Linear(3, 1)
    train(model, sgd(model), steps=10)
    discovery.close("closed")
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 4, 8]


def test_an_update_with_a_nan_is_left_out(tmp_path, begin):
    discovery = begin(skip_nonfinite=True)
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    train(model, optimizer)
    before = model.weight.detach().clone()
    model.zero_grad()
    (model(torch.ones(1, 3)) * float("nan")).sum().backward()
    optimizer.step()
    discovery.close("closed")
    assert torch.equal(model.weight, before)
    assert Run(tmp_path / "run").steps()["skipped"].tolist() == [False, False, False, True]


class LateGroups(torch.optim.SGD):
    """Its groups can't be read until it is ready."""

    ready = True

    @property
    def param_groups(self):
        if not self.ready:
            raise RuntimeError("not ready")
        return self.kept

    @param_groups.setter
    def param_groups(self, groups):
        self.kept = groups

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.kept:
                for parameter in group["params"]:
                    parameter.sub_(0.1 * parameter.grad)


def test_an_optimizer_whose_groups_cannot_be_read_is_said_once_and_recorded_from_when_they_can(tmp_path, begin, caplog):
    discovery = begin()
    model = nn.Linear(3, 1)
    optimizer = LateGroups(model.parameters(), lr=0.1)
    optimizer.ready = False
    train(model, optimizer)
    (told,) = caplog.messages
    assert "LateGroups" in told
    assert told.endswith("(optimizer-not-heard)")
    optimizer.ready = True
    train(model, optimizer, steps=4)
    discovery.close("exit")
    assert len(Run(tmp_path / "run").steps()) == 4
    assert len(caplog.messages) == 1


def in_threads(*bodies: Callable[[], object]) -> None:
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Held(torch.autograd.Function):
    """Its backward lasts until another thread has trained."""

    begun, may_end = threading.Event(), threading.Event()

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Held.begun.set()
        assert Held.may_end.wait(60)
        return gradient


def test_a_thread_reads_no_gradient_of_an_optimizer_that_another_thread_trains(tmp_path, begin):
    """The optimizers are made before the threads, so that only a clip call or a step tells whose they are."""
    discovery = begin()
    quick, slow = nn.Linear(3, 1), nn.Linear(3, 1)
    slow.weight = Read(slow.weight.detach())
    optimizers = sgd(quick), sgd(slow)
    slow.weight.readers.clear()
    losses: dict[str, list[float]] = {}
    of_slow: list[int] = []

    def train_quick():
        losses["quick"] = train(quick, optimizers[0], steps=1)
        assert Held.begun.wait(60)
        losses["quick"] += train(quick, optimizers[0], steps=3)
        Held.may_end.set()

    def train_slow():
        of_slow.append(threading.get_ident())
        loss = Held.apply(slow(torch.randn(8, 3))).square().mean()
        loss.backward()
        optimizers[1].step()
        losses["slow"] = [loss.item(), *train(slow, optimizers[1])]

    in_threads(train_quick, train_slow)
    assert slow.weight.readers == set(of_slow)
    discovery.close("exit")
    run = Run(tmp_path / "run")
    recorded = sorted(run.steps(name)["loss"].tolist() for name in run.optimizers)
    assert recorded == [pytest.approx(expected, rel=1e-5) for expected in sorted(losses.values())]


def test_an_optimizer_made_in_one_thread_while_another_is_attached_is_recorded_too(tmp_path, begin, monkeypatch):
    discovery = begin()
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    made: list[Optimizer] = []

    def while_attaching(optimizer: Optimizer) -> str | None:
        if not made:
            in_threads(lambda: made.append(sgd(second)))
        return None

    monkeypatch.setattr("gradwatch.script.discover.why_unheard", while_attaching)
    train(first, sgd(first))
    train(second, made[0])
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert [len(run.steps(name)) for name in run.optimizers] == [3, 3]


class Around(Optimizer):
    """It steps another optimizer of the same parameters."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        return self.inner.step(closure)


def test_an_optimizer_around_another_is_one_also_where_another_thread_trains(tmp_path, begin, caplog):
    discovery = begin()
    model = nn.Linear(3, 1)
    optimizer, losses = Around(sgd(model)), []
    in_threads(lambda: losses.extend(train(model, optimizer)))
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert [run.steps(name)["loss"].tolist() for name in run.optimizers] == [pytest.approx(losses)]
    assert not caplog.records


def test_optimizers_within_the_backward_are_one_also_where_another_thread_trains(tmp_path, begin):
    discovery = begin()
    model = nn.Linear(3, 1)
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda one: optimizers[one].step())
    losses = []
    in_threads(lambda: losses.extend(train(model, None)))
    discovery.close("exit")
    run = Run(tmp_path / "run")
    assert [run.steps(name)["loss"].tolist() for name in run.optimizers] == [pytest.approx(losses)]
