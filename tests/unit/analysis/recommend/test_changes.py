"""The threshold after a change, against runs that were recorded with it and against simulations."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch

from gradwatch import Run
from gradwatch.analysis.recommend import parse_changes, recommend_after
from gradwatch.analysis.recommend.changes import Setup, advise_after
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.cli.signatures import app
from gradwatch.errors import BadArgument
from gradwatch.record import WeightStats
from gradwatch.testing import steady, stream, write_run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Writes a calm run of 1,000 steps whose weights have a norm of 50; each is written once and only read."""
    half = np.full(2, 50.0 / math.sqrt(2), np.float32)
    weights = WeightStats(weight_norm=half, update_norm=half * np.float32(1e-4))

    @functools.cache
    def written(optimizer, **settings):
        records = [
            dataclasses.replace(record, learning_rates=(settings["lr"],), weights=None if record.step % 10 else weights)
            for record in stream(steady(1000))
        ]
        return write_run(tmp_path_factory.mktemp("recorded") / "a", records, optimizer, settings)

    return lambda optimizer="SGD", **settings: Run(written(optimizer, **{"lr": 0.1} | settings))


@pytest.mark.parametrize(
    "given",
    [
        ["x=1"],
        ["lr"],
        ["lr="],
        ["lr=0"],
        ["lr=nan"],
        ["lr=-1"],
        ["batch=0:4"],
        ["batch=a"],
        ["momentum=1"],
        ["beta1=-0.1"],
        ["nesterov=yes"],
    ],
)
def test_a_change_that_can_not_be_read_is_an_error(given):
    with pytest.raises(BadArgument, match="--if"):
        parse_changes(given)


def test_a_key_may_be_given_once():
    with pytest.raises(BadArgument, match="each key once"):
        parse_changes(["lr=1", "lr=2"])


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.3])
def test_another_learning_rate_gives_the_threshold_of_a_run_that_was_recorded_with_it(recorded, rate):
    before, after = recommend_after(recorded(), {"lr": str(rate)})
    assert before.max_norm == pytest.approx(10.0, rel=0.02)
    assert after.max_norm == pytest.approx(recorded(lr=rate).recommend().max_norm, rel=0.02)
    assert after.max_norm == pytest.approx(10.0 * 0.1 / rate, rel=0.03)
    assert any("the same bound on one update" in reason for reason in after.reasons)


def test_the_learning_rate_of_an_optimizer_that_normalises_does_not_move_the_threshold(recorded):
    before, after = recommend_after(recorded("AdamW", weight_decay=0.0), {"lr": "0.03"})
    assert after.max_norm == before.max_norm
    assert any("does not move the threshold" in reason for reason in after.reasons)


@pytest.mark.parametrize(
    ("updates", "times", "clip"),  # updates of 0.005 of the weights could have lowered the loss
    [(0.002, 100.0, "ZClip()"), (0.02, 0.01, "AutoClip(10)")],
)
def test_another_rate_under_adam_changes_nothing_where_the_loss_stands(tmp_path, updates, times, clip):
    half = np.full(2, 1.0, np.float32)
    weights = WeightStats(weight_norm=half, update_norm=half * np.float32(updates))
    losses = np.random.default_rng(0).normal(0.7, 0.01, 400).tolist()
    records = [
        dataclasses.replace(record, learning_rates=(1e-3,), weights=weights)
        for record in stream(steady(400), losses=losses)
    ]
    before, after = recommend_after(Run(write_run(tmp_path, records, "Adam", {"lr": 1e-3})), {"lr": str(1e-3 * times)})
    assert before.clip == clip
    assert (after.max_norm, after.low, after.high, after.clip) == (before.max_norm, before.low, before.high, clip)


@pytest.mark.parametrize("noise", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("times", [0.25, 2.0, 16.0])
def test_a_larger_batch_lowers_the_norms_as_simulated_gradients_do(recorded, noise, times):
    """A gradient of length 1 plus independent noise whose variance is ``noise`` at one batch."""
    rng = np.random.default_rng(0)
    size, draws = 400, 1000
    mean = np.zeros(size)
    mean[0] = 1.0

    def root_mean_square(batches):
        drawn = mean + rng.standard_normal((draws, size)) * math.sqrt(noise / batches / size)
        return math.sqrt(np.square(drawn).sum(axis=1).mean())

    history = optimizer_history(recorded("AdamW"))
    setup = Setup(weight_decay=0.0, noise_scale=noise)
    same, other = (
        advise_after(history, setup, {"batch": f"32:{32 * factor:g}"}, None).max_norm for factor in (1.0, times)
    )
    assert other / same == pytest.approx(root_mean_square(times) / root_mean_square(1), rel=0.1)  # of two digits each


def test_without_a_noise_scale_a_batch_gives_a_range_and_without_the_old_size_nothing(recorded):
    run = recorded("AdamW")
    before, after = recommend_after(run, {"batch": "32:128"})
    assert 0.5 * before.max_norm < after.max_norm < before.max_norm
    assert any("between 0.5 and 1" in reason for reason in after.reasons)
    before, after = recommend_after(run, {"batch": "128"})
    assert after.max_norm == before.max_norm
    assert any("unknown: write --if batch=OLD:128" in reason for reason in after.reasons)


@functools.cache
def settled(optimizer, decay, rate=0.05, steps=1500):
    """Norms of gradient and weights once a normalised layer has settled: only the direction of x counts."""
    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.randn(64))
    step = optimizer([x], lr=rate, weight_decay=decay)
    norms = []
    for _ in range(steps):
        step.zero_grad()
        (x / x.norm() @ torch.randn(64)).backward()
        norms.append((float(x.grad.norm()), float(x.detach().norm())))
        step.step()
    return np.sqrt(np.square(norms[steps // 2 :]).mean(axis=0))


def test_under_weight_decay_the_norms_move_as_those_of_a_trained_normalised_layer(recorded):
    """|g| / |x| settles at sqrt(2 lambda / lr); |g| moves with its root under SGD and with itself under AdamW."""
    gradient, weight = settled(torch.optim.SGD, 0.05)
    assert gradient / weight == pytest.approx(math.sqrt(2 * 0.05 / 0.05), rel=0.1)
    for name, power in (("SGD", 0.25), ("AdamW", 0.5)):
        optimizer = getattr(torch.optim, name)
        moved = settled(optimizer, 0.2)[0] / settled(optimizer, 0.05)[0]
        assert moved == pytest.approx(4**power, rel=0.1)
    run = recorded("AdamW", weight_decay=0.05)
    before, after = recommend_after(run, {"weight_decay": "0.2"})
    # The record can't tell whether the layers are normalised: the threshold stays, the range covers what settles.
    assert after.max_norm == before.max_norm
    assert after.low <= before.low
    assert after.high >= 2 * before.max_norm
    assert any("can't tell" in reason and "the threshold stays" in reason for reason in after.reasons)
    assert any("2506.02285" in reason for reason in after.reasons)


def test_under_weight_decay_the_threshold_of_sgd_lies_between_now_and_what_settles(recorded):
    """The weights shrink with the fourth root of lambda / lr, and the bound on an update with them."""
    before, after = recommend_after(recorded(weight_decay=0.05), {"weight_decay": "0.2"})
    settled_weight = settled(torch.optim.SGD, 0.2)[1] / settled(torch.optim.SGD, 0.05)[1]
    assert after.max_norm == pytest.approx(before.max_norm * math.sqrt(settled_weight), rel=0.08)


@pytest.mark.parametrize(
    ("optimizer", "settings", "changes", "says"),
    [
        ("SGD", {"weight_decay": 0.0}, {"weight_decay": "0.1"}, "without weight decay before or after"),
        ("SGD", {}, {"weight_decay": "0.1"}, "weight decay of the run is unknown"),
        ("Adam", {"weight_decay": 0.1}, {"weight_decay": "0.2"}, "adds weight decay to the gradient"),
        ("AdamW", {}, {"optimizer": "SGD"}, "learning rate for SGD is not known"),
        ("AdamW", {}, {"optimizer": "SGD", "lr": "0.1"}, "SGD is taken without momentum"),
        ("AdamW", {}, {"optimizer": "Unheard"}, "not known whether the update of Unheard follows"),
        ("AdamW", {}, {"optimizer": "Lion"}, "as the optimizer of the run"),
        ("Unheard", {}, {"optimizer": "Lion"}, "whether the optimizer of the run does is not known"),
    ],
)
def test_what_is_not_known_is_said(recorded, optimizer, settings, changes, says):
    _, after = recommend_after(recorded(optimizer, **settings), changes)
    assert any(says in reason for reason in after.reasons), after.reasons
    assert after.max_norm is not None


@pytest.mark.parametrize(("old", "new"), [(0.0, 0.9), (0.9, 0.5)])
def test_another_momentum_gives_the_threshold_of_a_run_that_was_recorded_with_it(recorded, old, new):
    run = recorded(momentum=old)
    before, after = recommend_after(run, {"momentum": str(new)})
    assert after.max_norm == pytest.approx(recorded(momentum=new).recommend().max_norm, rel=0.02)
    assert after.max_norm != before.max_norm
    assert any("1 - momentum" in reason for reason in after.reasons)
    nesterov = recommend_after(run, {"nesterov": "true"})[1]
    assert nesterov.max_norm == before.max_norm


@pytest.mark.parametrize("changes", [{"beta2": "0.9"}, {"momentum": "0.5"}, {"lr": "0.01"}, {"batch": "32:64"}])
def test_after_a_change_a_policy_is_named_as_it_is_without_one(recorded, changes):
    before, after = recommend_after(recorded("AdamW"), changes)
    assert before.clip is not None
    assert after.clip == before.clip
    assert any("its settings stay as they are" in reason for reason in after.reasons)


def test_a_policy_comes_and_goes_with_the_kind_of_optimizer(recorded):
    _, to_adam = recommend_after(recorded(), {"optimizer": "Adam"})
    _, to_sgd = recommend_after(recorded("Adam"), {"optimizer": "SGD", "lr": "0.1", "momentum": "0.9"})
    assert to_adam.clip == recorded("Adam").recommend().clip
    assert to_sgd.clip is None
    assert any("so the fixed threshold stands" in reason for reason in to_sgd.reasons)
    assert to_sgd.max_norm == pytest.approx(recorded(momentum=0.9).recommend().max_norm, rel=0.02)


@pytest.mark.parametrize(("optimizer", "key"), [("SGD", "beta1"), ("Unheard", "momentum")])
def test_an_average_that_the_optimizer_may_not_have_gives_no_threshold(recorded, optimizer, key):
    _, after = recommend_after(recorded(optimizer), {key: "0.5"})
    assert after.max_norm is None
    assert optimizer in after.reasons[0]


def test_a_run_that_supports_no_threshold_supports_none_after_a_change(tmp_path):
    run = Run(write_run(tmp_path, stream(steady(100))))
    before, after = recommend_after(run, {"lr": "0.1"})
    assert before.max_norm is None
    assert after.max_norm is None
    assert before.refused in after.reasons[0]


def test_the_command_prints_the_change_and_refuses_several_runs(recorded, capsys):
    path = str(recorded().path)
    with pytest.raises(SystemExit) as end:
        app(["recommend", path, "--if", "lr=0.05", "--json"], obj=[])
    assert end.value.code == 0
    after = json.loads(capsys.readouterr().out)["after"]
    assert (after["changes"], after["max_norm"]) == ({"lr": "0.05"}, pytest.approx(20.0, rel=0.02))
    with pytest.raises(SystemExit):
        app(["recommend", path, "--if", "lr=0.05"], obj=[])
    assert "if lr=0.05: max_norm 20" in capsys.readouterr().out
    with pytest.raises(BadArgument, match="one run"):
        app(["recommend", path, path, "--if", "lr=1"], obj=[], standalone_mode=False)
