"""Which loop an optimizer, a clip call or a name belongs to, and what stays of a loop that is gone."""

import _thread
import gc
import threading

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.loop_table import LoopTable


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def steps(model, optimizer, count):
    for _ in range(count):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def two(tmp_path):
    """A maker and a judge that are recorded, and the table of their loops."""
    models = {"maker": nn.Linear(2, 1), "judge": nn.Linear(2, 1)}
    optimizers = {name: sgd(model) for name, model in models.items()}
    with gradwatch.attach(nn.ModuleDict(models), optimizers, tmp_path) as watch:
        yield models, optimizers, watch._recording.loops


def test_a_loop_is_found_by_its_optimizer(two):
    _, optimizers, table = two
    assert [table.of(one).tracker.name for one in optimizers.values()] == ["maker", "judge"]
    assert table.of(sgd(nn.Linear(2, 1))) is None


def test_a_clip_call_belongs_to_every_loop_that_has_one_of_its_parameters(two):
    models, _, table = two

    def names(*parameters):
        return [loop.tracker.name for loop in table.clipped_by(ClipCall(parameters=list(parameters)))]

    assert names(*models["judge"].parameters()) == ["judge"]
    assert names(models["judge"].bias, models["maker"].bias) == ["maker", "judge"]
    assert names() == names(nn.Parameter(torch.ones(1))) == []


def test_no_name_is_every_name(two):
    *_, table = two
    assert [len(table.named(name)) for name in (None, "judge", "nobody")] == [2, 1, 0]


def test_models_are_those_of_the_loops(two):
    models, _, table = two
    found = list(table.models())
    assert all(any(m is part for one in found for part in one.modules()) for m in models.values())


def test_the_furthest_step_is_that_of_the_optimizer_that_made_most(two):
    models, optimizers, table = two
    steps(models["maker"], optimizers["maker"], 2)
    steps(models["judge"], optimizers["judge"], 5)
    assert table.furthest_step == 5


def test_of_a_loop_that_is_gone_the_name_and_the_steps_stay(two, tmp_path):
    models, optimizers, table = two
    steps(models["judge"], optimizers["judge"], 5)
    steps(models["maker"], optimizers["maker"], 1)
    del optimizers["judge"]
    gc.collect()
    assert [loop.tracker.name for loop in table] == ["maker"]
    assert (len(table), table.names, table.furthest_step) == (1, ["maker", "judge"], 5)


def test_an_empty_table_is_at_step_0():
    table = LoopTable()
    assert (table.furthest_step, len(table), list(table.models())) == (0, 0, [])
    assert table.record_nothing() is False


def test_a_thread_that_is_not_of_the_module_threading_trains_too(two):
    """Such as one that C++ has started."""
    models, optimizers, table = two
    has_trained, may_end = threading.Event(), threading.Event()

    def train():
        steps(models["judge"], optimizers["judge"], 1)
        has_trained.set()
        may_end.wait(60)

    _thread.start_new_thread(train, ())
    assert has_trained.wait(60)
    here = [loop.tracker.name for loop in table.of_this_thread()]
    may_end.set()
    assert here == ["maker"]
