"""Where two runs part: planted differences, two real trainings of torch, and a slow search as oracle."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.analysis.differences import difference, differences, relative_difference
from gradwatch.record import LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.parting import sentences

NAMES = ("a", "b", "c")


def recorded(path, change=None, steps=200, seed=0, settings=None):
    """A run with three parameters; ``change`` gives the record of a step in place of another."""
    rng = np.random.default_rng(seed)
    infos = tuple(ParameterInfo(name=name, shape=(4,)) for name in NAMES)
    records = []
    for step in range(steps):
        norms = rng.lognormal(size=3).astype(np.float32)
        record = StepRecord(
            step=step,
            wall_time=float(step),
            total_norm=float(np.sqrt(np.square(norms, dtype=float).sum())),
            loss=float(rng.random()),
            learning_rates=(0.1,),
            max_norm=1.0,
            layers=LayerStats(parameters=infos, norm=norms),
            weights=WeightStats(weight_norm=np.ones(3, np.float32), update_norm=norms * np.float32(0.1))
            if step % 10 == 0
            else None,
        )
        records.append(record if change is None else change(record))
    return Run(write_run(path, records, settings=settings))


def at(step, **fields):
    return lambda record: dataclasses.replace(record, **fields) if record.step == step else record


def with_norm(step, parameter, value):
    def change(record):
        if record.step != step:
            return record
        norms = record.layers.norm.copy()
        norms[NAMES.index(parameter)] = value
        return dataclasses.replace(record, layers=dataclasses.replace(record.layers, norm=norms))

    return change


def test_equal_records_are_bit_equal(tmp_path):
    (found,) = differences(recorded(tmp_path / "a"), recorded(tmp_path / "b"))
    assert found.bit_equal
    assert (found.step, found.parameters, found.growth, found.common_steps) == (None, (), (), 200)
    assert "agree bit for bit" in sentences(found, "a", "b")[0]


@pytest.mark.parametrize(
    ("change", "step", "source", "name", "parameters"),
    [
        pytest.param(at(7, loss=0.5), 7, "loss", "loss", (), id="a loss"),
        pytest.param(at(7, loss=None), 7, "loss", "loss", (), id="a loss that is missing"),
        pytest.param(at(7, learning_rates=(0.2,)), 7, "settings", "learning_rate", (), id="a learning rate"),
        pytest.param(at(7, max_norm=2.0), 7, "settings", "max_norm", (), id="a threshold"),
        pytest.param(with_norm(137, "b", 5.0), 137, "gradient", "norm", ("b",), id="the norm of one parameter"),
        pytest.param(with_norm(137, "b", math.nan), 137, "gradient", "norm", ("b",), id="no gradient"),
        pytest.param(with_norm(137, "b", math.inf), 137, "gradient", "norm", ("b",), id="infinity"),
        pytest.param(with_norm(0, "a", 0.0), 0, "gradient", "norm", ("a",), id="the first step"),
        pytest.param(with_norm(199, "c", 0.0), 199, "gradient", "norm", ("c",), id="the last step"),
        pytest.param(at(50, skipped=True), 50, "gradient", "skipped", (), id="a skipped step"),
    ],
)
def test_a_planted_difference_is_found_where_it_is(tmp_path, change, step, source, name, parameters):
    found = difference(recorded(tmp_path / "a"), recorded(tmp_path / "b", change), "0")
    assert (found.step, found.source, found.name, found.parameters) == (step, source, name, parameters)
    assert not found.bit_equal
    assert found.growth[0].step == step
    assert found.growth[-1].step == 199
    # The other way round only the sides change.
    back = difference(recorded(tmp_path / "c", change), recorded(tmp_path / "d"), "0")
    assert (back.step, back.name, back.parameters) == (step, name, parameters)
    np.testing.assert_equal((back.first, back.second, back.relative), (found.second, found.first, found.relative))


@pytest.mark.parametrize(
    ("settings", "name", "values"),
    [
        ({"weight_decay": 0.1}, "weight_decay", (0.0, 0.1)),
        ({"betas": [0.9, 0.95]}, "betas", (0.999, 0.95)),
        ({"nesterov": True}, "nesterov", (0.0, 1.0)),
    ],
)
def test_a_setting_of_the_optimizer_is_seen_at_the_first_step_and_not_by_what_it_does_later(
    tmp_path, settings, name, values
):
    own = {"lr": 0.1, "betas": [0.9, 0.999], "weight_decay": 0.0, "nesterov": False, "foreach": None}
    first = recorded(tmp_path / "a", settings=own)
    found = difference(first, recorded(tmp_path / "b", at(1, total_norm=9.0), settings=own | settings), "0")
    assert (found.step, found.source, found.name, (found.first, found.second)) == (0, "settings", name, values)
    assert f"the {name.replace('_', ' ')} ({values[0]:g} against {values[1]:g}" in sentences(found, "x", "y")[0]
    # A setting that changed no recorded number parts no runs.
    assert difference(first, recorded(tmp_path / "c", settings=own | settings), "0").bit_equal


def test_the_smallest_difference_of_a_float_is_one(tmp_path):
    value = float(recorded(tmp_path / "a").layers("norm")["b"][20])
    next_one = float(np.nextafter(np.float32(value), np.float32(np.inf)))
    found = difference(Run(tmp_path / "a"), recorded(tmp_path / "b", with_norm(20, "b", next_one)), "0")
    assert (found.step, found.first, found.second) == (20, value, next_one)
    assert found.relative == pytest.approx(2.0**-23, rel=1)


def test_sampled_weights_and_updates_are_compared_where_both_have_them(tmp_path):
    first = recorded(tmp_path / "a")
    weights = WeightStats(weight_norm=np.array([1, 1, 2], np.float32), update_norm=np.zeros(3, np.float32))
    found = difference(first, recorded(tmp_path / "b", at(40, weights=weights)), "0")
    assert (found.step, found.source, found.parameters, found.alike) == (
        40,
        "weights",
        ("c",),
        ("learning rates and clip settings",),
    )
    assert difference(first, recorded(tmp_path / "c", at(40, weights=None)), "0").bit_equal
    samples = WeightStats(weight_norm=np.ones(3, np.float32), update_norm=np.full(3, 9, np.float32))
    found = difference(first, recorded(tmp_path / "d", at(40, weights=samples)), "0")
    assert (found.source, found.name, set(found.parameters)) == ("update", "update_norm", set(NAMES))
    assert found.alike == ("learning rates and clip settings", "losses", "gradients")


def trained(path, forgets_at=None):
    """A training with momentum, whose weights are sampled at every 50th step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    with gradwatch.attach(model, optimizer, path) as watch:
        for step in range(30):
            x = torch.randn(16, 4)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if step == forgets_at:
                optimizer.state.clear()
            optimizer.step()
            watch.log(loss=loss)
    return Run(path)


def test_an_update_that_differs_between_two_samples_of_the_weights(tmp_path):
    first = trained(tmp_path / "a")
    assert difference(first, trained(tmp_path / "b"), "0").bit_equal
    found = difference(first, trained(tmp_path / "c", forgets_at=17), "0")
    assert (found.step, found.source, found.name) == (17, "update", "update_norm")
    assert set(found.parameters) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert found.alike == ("learning rates and clip settings", "losses", "gradients")
    assert "the update of" in sentences(found, "x", "y")[0]


def test_of_several_parameters_the_one_that_differs_most_leads(tmp_path):
    def change(record):
        norms = record.layers.norm * np.array([1.01, 1.0, 2.0], np.float32)
        return dataclasses.replace(record, layers=dataclasses.replace(record.layers, norm=norms))

    found = difference(recorded(tmp_path / "a"), recorded(tmp_path / "b", change), "0")
    assert (found.step, found.parameters) == (0, ("c", "a"))
    assert found.relative == pytest.approx(0.5)


def test_chunks_give_what_a_slow_search_over_all_steps_gives(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.analysis.differences.ENTRIES_AT_ONCE", 7)
    rng = np.random.default_rng(1)
    for turn in range(6):
        step, name = int(rng.integers(200)), NAMES[rng.integers(3)]
        first = recorded(tmp_path / f"a{turn}")
        second = recorded(tmp_path / f"b{turn}", with_norm(step, name, 100.0))
        left, right = first.layers("norm"), second.layers("norm")
        slow = next(s for s in left.index if not left.loc[s].equals(right.loc[s]))
        found = difference(first, second, "0")
        assert (found.step, found.parameters) == (slow, (name,)) == (step, (name,))


def test_runs_of_different_lengths_and_without_common_steps(tmp_path):
    short = difference(recorded(tmp_path / "a"), recorded(tmp_path / "b", steps=50), "0")
    assert (short.common_steps, short.bit_equal) == (50, True)
    late = Run(write_run(tmp_path / "c", [dataclasses.replace(r, step=r.step + 1000) for r in stream(steady(20))]))
    none = difference(recorded(tmp_path / "d"), late, "0")
    assert (none.common_steps, none.bit_equal, none.step) == (0, False, None)
    assert "no step in common" in " ".join(sentences(none, "a", "b"))


def test_parameters_of_one_run_alone_are_named_and_the_others_compared(tmp_path):
    infos = tuple(ParameterInfo(name=name, shape=(4,)) for name in ("c", "d"))

    def change(record):
        norms = np.array([record.layers.norm[2], 1.0], np.float32)
        return dataclasses.replace(record, layers=LayerStats(parameters=infos, norm=norms), weights=None)

    found = difference(recorded(tmp_path / "a"), recorded(tmp_path / "b", change), "0")
    assert (found.only_first, found.only_second, found.step, found.bit_equal) == (("a", "b"), ("d",), None, False)
    assert sentences(found, "x", "y")[:2] == ["only x has a and b", "only y has d"]


def test_where_a_run_was_resumed_its_latest_steps_count(tmp_path):
    first = recorded(tmp_path / "a")
    records = list(recorded(tmp_path / "b").records())
    again = [dataclasses.replace(record, attempt=1) for record in records[100:]]
    wrong = [dataclasses.replace(record, loss=9.0) if record.step >= 100 else record for record in records]
    assert difference(first, Run(write_run(tmp_path / "c", [*wrong, *again])), "0").step in (None, 100)
    assert difference(first, Run(write_run(tmp_path / "d", wrong)), "0").step == 100


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (-1.0, 1.0, 2.0), (1e308, -1e308, 2.0), (5e-324, 1e-323, 0.5)],
)
def test_relative_differences_at_the_ends_of_floating_point(first, second, expected):
    assert relative_difference(first, second) == expected
    assert relative_difference(first, math.nan) is None


def test_two_trainings_that_differ_in_one_rounded_gradient(tmp_path):
    """From step 37 on one layer's gradient is rounded to bfloat16 in the second training, and nothing else differs."""

    def train(run, rounded):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        with gradwatch.attach(model, optimizer, run) as watch:
            for step in range(80):
                loss = (model(torch.randn(16, 4)) - 1).square().mean()
                loss.backward()
                if rounded and step >= 37:
                    model[2].weight.grad.copy_(model[2].weight.grad.bfloat16().float())
                optimizer.step()
                optimizer.zero_grad()
                watch.log(loss=loss)
        return Run(run)

    (found,) = differences(train(tmp_path / "a", False), train(tmp_path / "b", True))
    assert (found.step, found.source, found.parameters) == (37, "gradient", ("2.weight",))
    assert found.alike == ("learning rates and clip settings", "losses")
    assert 0 < found.relative < 2.0**-8
    assert found.growth[0].loss == 0
    assert found.growth[-1].loss > 0
    (same,) = differences(train(tmp_path / "c", False), Run(tmp_path / "a"))
    assert same.bit_equal


def test_of_several_optimizers_the_one_that_parts_first_by_the_clock_leads(tmp_path):
    def both(path, actor=None, critic=None):
        records = []
        for i in range(60):
            for name, change in (("actor", actor), ("critic", critic)):
                loss = 2.0 if i == change else 1.0
                records.append(StepRecord(step=i, optimizer=name, wall_time=i + 0.5, total_norm=1.0, loss=loss))
        writer = StoreWriter(path)
        writer.begin_attempt({}, {"actor": ("Adam", {}), "critic": ("Adam", {})})
        writer.append(records)
        writer.end_attempt("closed")
        return Run(path)

    first, second = both(tmp_path / "a"), both(tmp_path / "b", actor=40, critic=20)
    assert [(d.optimizer, d.step) for d in differences(first, second)] == [("critic", 20), ("actor", 40)]
    assert "of optimizer critic" in sentences(differences(first, second)[0], "a", "b", several=True)[0]
