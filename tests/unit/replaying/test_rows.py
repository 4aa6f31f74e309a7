"""The rows that a gradient comes from."""

import math
import random
import statistics

import pytest
import torch
from planted_models import MLP, ConvNet
from planted_steps import capture_step
from torch import nn

from gradwatch.replaying.passes import prepared
from gradwatch.replaying.rows import _median_of_others, find_rows, groups_with_others

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(model, *losses):
    capture = capture_step(model, list(losses))
    with prepared(model, capture) as player:
        found = find_rows(player, player.play())
        groups = groups_with_others(found, capture.groups)
        norm = None if groups is None or not found.suspects else player.play(groups).total_norm
    return found, capture, norm


def loss_of(model, x, weight):
    return (model(x).pow(2).mean(1) * weight).sum()


def test_shares_are_those_of_single_rows():
    """Against each row's own backward."""
    torch.manual_seed(0)
    model, x, weight = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(6, 4), torch.ones(6)
    weight[2] = 50.0
    found, capture, _ = rows_of(model, lambda: loss_of(model, x, weight))
    total = torch.cat([one.reshape(-1) for one in capture.gradients.values()])
    for part in found.parts:
        gradients = torch.autograd.grad(loss_of(model, x[[part.row]], weight[[part.row]]), list(model.parameters()))
        own = torch.cat([one.reshape(-1) for one in gradients])
        assert part.norm == pytest.approx(float(own.norm()), rel=1e-5)
        assert part.share == pytest.approx(float(own @ total / (total @ total)), abs=1e-5)
        assert part.norm_without == pytest.approx(float((total - own).norm()), rel=1e-4)
    assert sum(part.share for part in found.parts) == pytest.approx(1.0, abs=1e-5)
    assert [part.row for part in found.suspects] == [2]


def test_none_stands_out():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(8, 12)
    found, _, _ = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert (found.suspects, found.spread) == ((), True)


def test_one_row_is_not_spread():
    model, x = MLP(), torch.randn(1, 12)
    found, _, _ = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert (len(found.parts), found.suspects, found.spread) == (1, (), False)


@pytest.mark.parametrize("rows", [[3], [1, 6], [0]])
def test_rows_that_are_not_finite(rows):
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(8, 12)
    x[rows, 2] = math.nan
    found, _, norm = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert sorted(part.row for part in found.suspects) == rows
    assert math.isfinite(norm)


def test_all_rows_are_bad():
    model, x = MLP(), torch.full((4, 12), math.nan)
    x[:, 0] = torch.arange(4.0)
    found, _, _ = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert found.suspects == ()


def test_one_of_many_rows():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(300, 3)
    x[217] *= 1000
    found, _, norm = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert [part.row for part in found.suspects] == [217]
    assert norm < 1e5
    x[217] = math.inf
    found, _, norm = rows_of(model, lambda: loss_of(model, x, 1.0))
    assert [part.row for part in found.suspects] == [217]


def test_the_micro_batch():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(3, 5, 12)
    weight = torch.ones(3, 5)
    weight[1, 4] = 1000.0
    found, _, _ = rows_of(model, *[lambda at=at: loss_of(model, x[at], weight[at]) for at in range(3)])
    assert [part.place for part in found.suspects] == [(1, 4)]


def test_rows_mixed_by_batch_norm():
    torch.manual_seed(0)
    model, x = ConvNet(), torch.randn(6, 3, 6, 6)
    x[4, 0, 0, 0] = math.nan
    found, _, norm = rows_of(model, lambda: model(x).pow(2).sum())
    assert [part.row for part in found.suspects] == [4]
    assert math.isfinite(norm)
    assert found.batches[0].mixed_in == "norm"


def test_a_batch_norm_that_refuses_single_rows():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), torch.randn(8, 4)
    x[5, 1] = math.inf
    found, _, norm = rows_of(model, lambda: model(x).pow(2).sum())
    assert [part.row for part in found.suspects] == [5]
    assert math.isfinite(norm)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 10])
def test_the_median_of_the_others_is_that_of_statistics(size):
    draw = random.Random(size)
    numbers = sorted(draw.choice([0.5, 1.0, 2.0, draw.random()]) for _ in range(size))
    for at, one in enumerate(numbers):
        assert _median_of_others(numbers, one) == statistics.median(numbers[:at] + numbers[at + 1 :])


def test_of_very_many_forwards_those_with_the_largest_gradients_are_searched(monkeypatch):
    monkeypatch.setattr("gradwatch.replaying.rows.MOST_SEARCHED", 2)
    torch.manual_seed(0)
    model, x, weight = MLP(), torch.randn(4, 3, 12), torch.ones(3)
    bad = weight.clone()
    bad[1] = 1e4
    found, _, _ = rows_of(model, *(lambda at=at: loss_of(model, x[at], bad if at == 2 else weight) for at in range(4)))
    assert [(part.micro_batch, part.row) for part in found.suspects] == [(2, 1)]
    assert [batch is None for batch in found.batches].count(True) == 2
    assert any("searched in 2 of 4 forwards" in one for one in found.notes)
