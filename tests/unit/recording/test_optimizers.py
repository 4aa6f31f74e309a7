"""Which optimizers get a loop of their own: wrappers, those inside them, and those that never step."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from gradwatch import Run, attach
from gradwatch.recording.optimizers import steps_flat_part, unwrapped, with_inner, without_wrapped


def weights(count: int = 1) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2)) for _ in range(count)]


class Passive(Optimizer):
    """Holds another optimizer, which its own methods step; it has no `step`."""

    def __init__(self, parameters: list[nn.Parameter], hold: Callable[[Optimizer], Any] = lambda inner: inner) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.inner = SGD(self.param_groups, lr=0.1)
        self.held = hold(self.inner)
        self.param_groups = self.inner.param_groups

    def second_step(self) -> None:
        self.inner.step()


class Active(Passive):
    """One whose own `step` steps the one inside."""

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


@pytest.mark.parametrize(
    "hold", [lambda one: one, lambda one: [one], lambda one: (one,), lambda one: {"a": one}, lambda one: None]
)
def test_those_inside_are_found_wherever_they_are_held_and_once(hold):
    outer = Active(weights(), hold)
    assert with_inner(outer) == [outer, outer.inner]


def test_one_within_one_within_one_is_found():
    (weight,) = weights()
    outer = Active([weight])
    outer.inner.__dict__["deeper"] = Adam([weight])
    assert [type(one) for one in with_inner(outer)] == [Active, SGD, Adam]


def test_two_that_hold_each_other_end():
    outer = Active(weights())
    outer.inner.__dict__["owner"] = outer
    assert with_inner(outer) == [outer, outer.inner]


def test_one_of_other_parameters_is_not_inside():
    first, second = weights(2)
    outer = SGD([first], lr=0.1)
    outer.__dict__["discriminator"] = other = SGD([second], lr=0.1)
    assert with_inner(outer) == [outer]
    assert without_wrapped({"0": outer, "1": other}) == {"0": outer, "1": other}


def test_one_that_has_no_step_is_no_optimizer_of_the_run():
    outer = Passive(weights())
    assert without_wrapped({"0": outer, "1": outer.inner}) == {"1": outer.inner}


def test_one_that_has_no_step_leaves_its_place_to_the_one_inside():
    outer = Passive(weights())
    assert without_wrapped({"sam": outer}) == {"sam": outer.inner}


def test_one_that_steps_counts_instead_of_the_one_inside():
    outer = Active(weights())
    assert without_wrapped({"0": outer, "1": outer.inner}) == {"0": outer}


def test_one_put_around_a_recorded_one_does_not_count():
    outer = Active(weights())
    assert without_wrapped({"1": outer}, known=[outer.inner]) == {}


def test_no_optimizer_and_unrelated_ones_stay():
    first, second = SGD(weights(), lr=0.1), Adam(weights())
    assert without_wrapped({}) == {}
    assert without_wrapped({"a": first, "b": second}, known=[SGD(weights(), lr=0.1)]) == {"a": first, "b": second}


@pytest.mark.parametrize("kind", [Passive, Active])
@pytest.mark.parametrize("given", ["outer", "both", "inner"])
def test_each_update_is_one_step_whichever_of_them_is_given(tmp_path, kind, given):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    outer = kind(list(model.parameters()))
    chosen: dict[str, Any] = {"outer": outer, "both": [outer, outer.inner], "inner": outer.inner}
    norms: list[float] = []
    with attach(model, chosen[given], tmp_path / "run"):
        for _ in range(3):
            outer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            norms.append(float(torch.nn.utils.get_total_norm(gradients(model))))
            outer.second_step() if kind is Passive else outer.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].tolist() == pytest.approx(norms, rel=1e-6)


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_wrappers_of_accelerate_and_fabric_are_taken_off():
    inner = SGD(weights(), lr=0.1)
    wrapper = SGD(weights(), lr=0.1)
    wrapper.__dict__["optimizer"] = inner
    assert unwrapped(wrapper) is inner
    assert unwrapped(inner) is inner


@pytest.fixture
def with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's module is imported."""
    name = "deepspeed.runtime.zero.stage_1_and_2"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def partitioned(model: nn.Module) -> Optimizer:
    """An optimizer as ZeRO leaves it: each group has one flat part of the weights."""
    optimizer = Adam([{"params": [model.weight]}, {"params": [model.bias]}])
    for group in optimizer.param_groups:
        group["params"] = [nn.Parameter(torch.zeros(4))]
    return optimizer


@pytest.mark.usefixtures("with_zero")
def test_a_flat_part_of_the_weights_is_said_to_be_one(tmp_path, caplog):
    model = nn.Linear(3, 2)
    optimizer = partitioned(model)
    assert steps_flat_part(model, optimizer)
    with caplog.at_level(logging.WARNING, "gradwatch"), attach(model, optimizer, tmp_path / "run"):
        pass
    (message,) = [record.message for record in caplog.records]
    assert "those of rank 0's part" in message
    assert message.endswith("(zero-part)")


@pytest.mark.usefixtures("with_zero")
def test_other_parameters_are_not_taken_for_a_flat_part(tmp_path, caplog):
    model = nn.Linear(3, 1)
    of_another_model = SGD(nn.Linear(3, 1).parameters(), lr=0.1)
    bias_alone = SGD([model.bias], lr=0.1)
    for optimizer in (SGD(model.parameters(), lr=0.1), of_another_model, bias_alone):
        assert not steps_flat_part(model, optimizer)
    with caplog.at_level(logging.WARNING, "gradwatch"), attach(model, bias_alone, tmp_path / "run"):
        pass
    assert "zero-part" not in caplog.text


def test_without_deepspeed_nothing_is_a_part_of_zero():
    model = nn.Linear(3, 2)
    assert not steps_flat_part(model, partitioned(model))


class Uninitialised(Optimizer):
    """Trains well by itself; it never calls `Optimizer.__init__`."""

    def __init__(self, parameters):
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(group["lr"] * parameter.grad)


class WithoutGroups(Uninitialised):
    def __init__(self, parameters):
        self.given = list(parameters)

    def step(self, closure=None):
        for parameter in self.given:
            parameter.data.sub_(0.1 * parameter.grad)


class RaisingGroups(WithoutGroups):
    @property
    def param_groups(self):  # type: ignore[override]
        raise RuntimeError("not yet")


class NoGroups(WithoutGroups):
    param_groups = None  # type: ignore[assignment]


def trained_by(kind, watched=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters())
    watch = None if watched is None else attach(model, optimizer, watched)
    for _ in range(4):
        model.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    if watch is not None:
        watch.close()
    return model.weight.detach().clone()


@pytest.mark.parametrize("kind", [Uninitialised, WithoutGroups, RaisingGroups, NoGroups])
def test_an_optimizer_that_pytorch_calls_no_hooks_of_is_recorded_at_its_clip_calls(tmp_path, caplog, kind):
    assert torch.equal(trained_by(kind, tmp_path / "run"), trained_by(kind))
    run = Run(tmp_path / "run")
    assert len(run.steps()) == 4
    assert list(run.optimizers.values()) == ["NoOptimizer"]
    (told,) = caplog.messages
    assert kind.__name__ in told
    assert told.endswith("(optimizer-not-heard)")


def test_one_that_is_not_heard_leaves_another_s_parameters_to_that_one(tmp_path, caplog):
    first, second = nn.Linear(3, 3), nn.Linear(3, 1)
    model = nn.Sequential(first, second)
    heard = SGD(second.parameters(), lr=0.1)
    with attach(model, {"odd": WithoutGroups(first.parameters()), "heard": heard}, tmp_path / "run"):
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            heard.step()
    run = Run(tmp_path / "run")
    assert [info.name for info in run.parameters("odd")] == ["0.weight", "0.bias"]
    assert len(run.steps("heard")) == 3
    assert len(caplog.messages) == 1


def test_a_property_or_a_tuple_of_groups_is_heard_as_a_list_is(tmp_path, caplog):
    class Kept(SGD):
        @property
        def param_groups(self):
            return tuple(self.kept)

        @param_groups.setter
        def param_groups(self, groups):
            self.kept = groups

        def add_param_group(self, group):
            self.kept.append(group | {"params": list(group["params"])})

    model = nn.Linear(3, 1)
    optimizer = Kept(model.parameters(), lr=0.1)
    for name, value in optimizer.defaults.items():
        optimizer.kept[0].setdefault(name, value)
    with attach(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    assert len(Run(tmp_path / "run").steps()) == 3
    assert caplog.messages == []


def test_a_bystander_whose_groups_cannot_be_read_does_not_end_the_recording(tmp_path, caplog):
    bystander = RaisingGroups([nn.Parameter(torch.zeros(2))])
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, tmp_path / "run"):
        for _ in range(5):
            model.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    del bystander
    assert len(Run(tmp_path / "run").steps()) == 5
    assert caplog.messages == []
