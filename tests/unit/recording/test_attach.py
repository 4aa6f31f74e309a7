"""Arguments are checked before the training, and a run is begun or continued."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.errors import BadArgument, GradwatchError, NoParameters, RunInUse, StoreNotWritable

from .nets import make, train


def test_sampling_can_be_turned_off(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=0):
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").layers("update_ratio").empty


def test_every_records_each_nth_step(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", every=4, stats=("norm",), weights_every=0):
        train(model, optimizer, 10, "clipped by norm")
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == [0, 4, 8]
    assert (run.steps()["max_norm"] == 0.5).all()
    assert run.layers("zeros").empty
    assert run.summary().steps == 3


def test_attaching_again_continues_after_the_last_step(tmp_path):
    model, optimizer = make()
    for _ in range(2):
        with gradwatch.attach(model, optimizer, tmp_path / "run"):
            train(model, optimizer, 5)
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == list(range(10))
    assert run.steps()["attempt"].tolist() == [0] * 5 + [1] * 5
    assert [(e.kind, e.step) for e in run.events()] == [("resumed", 5)]


def test_of_two_records_of_one_step_the_later_attempt_stands(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 6)
    first = Run(tmp_path / "run").steps()["total_norm"]
    with gradwatch.attach(model, optimizer, tmp_path / "run", first_step=4):
        train(model, optimizer, 1)
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == list(range(6))
    assert run.steps()["attempt"].tolist() == [0, 0, 0, 0, 1, 0]
    assert run.steps().loc[4, "total_norm"] != first[4]
    assert np.linalg.norm(run.layers("norm").loc[4]) == pytest.approx(run.steps().loc[4, "total_norm"])
    assert len(run.layers("norm")) == 6


def test_a_model_whose_parameters_changed_between_attempts_keeps_its_columns(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    torch.manual_seed(0)
    model = nn.ModuleDict({"extra": nn.Linear(5, 1), "out": nn.Linear(5, 1)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        (model["extra"](torch.ones(1, 5)) + model["out"](torch.ones(1, 5))).sum().backward()
        norm = model["out"].weight.grad.norm().item()
        optimizer.step()
    frame = Run(tmp_path / "run").layers("norm")
    assert frame.loc[2, "out.weight"] == pytest.approx(norm)
    assert math.isnan(frame.loc[2, "rnn.weight_hh_l0"])
    assert math.isnan(frame.loc[0, "extra.weight"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"model": "net"}, "model is a str", id="a model that is none"),
        pytest.param(
            {"optimizer": "SGD"}, "is a str; expected a torch.optim.Optimizer", id="an optimizer that is none"
        ),
        pytest.param({"stats": ("norm", "mean")}, "expected some of norm, abs_max", id="an unknown statistic"),
        pytest.param({"stats": "norm"}, "expected some of", id="statistics as one string"),
        pytest.param({"every": 0}, "every is 0", id="never"),
        pytest.param({"weights_every": -1}, "weights_every -1", id="a negative period"),
        pytest.param({"first_step": -1}, "first_step is -1", id="a negative step"),
        pytest.param({"total_steps": 0}, "total_steps is 0", id="a training of no step"),
    ],
)
def test_wrong_arguments_are_said_before_training(tmp_path, arguments, says):
    model, optimizer = make()
    given = {"model": model, "optimizer": optimizer, "run": tmp_path / "run"} | arguments
    with pytest.raises(BadArgument, match=says):
        gradwatch.attach(**given)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_without_parameters_is_recorded_beside_others(tmp_path, caplog):
    model = nn.Linear(2, 1)
    empty, full = torch.optim.Adam([{"params": []}]), torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, [empty, full], tmp_path):
        for _ in range(3):
            model(torch.ones(2)).sum().backward()
            empty.step()
            full.step()
    assert caplog.messages == []
    assert len(gradwatch.Run(tmp_path).steps("1")) == 3


def test_nothing_to_watch(tmp_path):
    with pytest.raises(NoParameters, match="no optimizer with a parameter"):
        gradwatch.attach(nn.Identity(), [], tmp_path / "run")


def test_a_file_in_the_way_of_the_run(tmp_path):
    (tmp_path / "run").write_text("mine")
    model, optimizer = make()
    with pytest.raises(StoreNotWritable, match="can't be made"):
        gradwatch.attach(model, optimizer, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_can_not_be_written():
    model, optimizer = make()
    with pytest.raises(StoreNotWritable, match="store-not-writable"):
        gradwatch.attach(model, optimizer, "/proc/gradwatch/run")


def test_a_foreign_file_is_not_written_to(tmp_path):
    (tmp_path / "gradwatch.db").write_text("not a database, but somebody's")
    model, optimizer = make()
    with pytest.raises(GradwatchError, match="not-a-run"):
        gradwatch.attach(model, optimizer, tmp_path)
    assert (tmp_path / "gradwatch.db").read_text() == "not a database, but somebody's"


def test_a_run_is_written_by_one(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        with pytest.raises(RunInUse, match="another watch of this process"):
            gradwatch.attach(model, optimizer, tmp_path / "run")
        train(model, optimizer, 2)
    assert len(Run(tmp_path / "run").steps()) == 2


class Refusing(torch.optim.SGD):
    """It takes no hook, which `attach` notices when the attempt has begun."""

    refusal: BaseException | None = None

    def register_step_post_hook(self, hook):
        if self.refusal is not None:
            raise self.refusal
        return super().register_step_post_hook(hook)


@pytest.mark.parametrize(
    "refusal", [RuntimeError("no hooks"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_after_an_attach_that_failed_late_nothing_is_left_and_the_next_one_works(tmp_path, refusal):
    model, first = make()
    optimizer = Refusing(model.parameters(), 0.1)
    optimizer.refusal = refusal
    backward = torch.autograd.backward
    with pytest.raises(type(refusal)):
        gradwatch.attach(model, [first, optimizer], tmp_path / "run")
    assert torch.autograd.backward is backward
    assert not first._optimizer_step_pre_hooks
    assert [attempt.reason for attempt in Run(tmp_path / "run").attempts()] == ["fault"]
    optimizer.refusal = None
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 1]
