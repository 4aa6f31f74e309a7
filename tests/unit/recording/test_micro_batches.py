"""The norm of an accumulated gradient, and the noise scale that follows from it, beside per-sample gradients."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradwatch
from gradwatch.recording.micro_batches import WAIT_UPDATES, MicroBatches

SIZE, NUMBER = 4, 8


def teacher(seed=0, rows=512):
    torch.manual_seed(seed)
    x = torch.randn(rows, 6)
    return x, (x @ torch.randn(6, 1)) + 0.8 * torch.randn(rows, 1)


def loop(folder, model, x, y, *, steps=30, rate=0.0, number=NUMBER, zero=None, mean=True, scaler=None, **options):
    """Accumulate over ``number`` micro-batches, each drawn with replacement."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    with gradwatch.attach(model, optimizer, folder, **options) as watch:
        for _ in range(steps):
            for _ in range(number):
                at = torch.randint(len(x), (SIZE,), generator=generator)
                loss = functional.mse_loss(model(x[at]), y[at]) / (number if mean else 1)
                (loss if scaler is None else scaler.scale(loss)).backward()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            if zero is None:
                optimizer.zero_grad()
            else:
                optimizer.zero_grad(set_to_none=zero)
        watch.flush()
    return gradwatch.Run(folder)


def noise_of_samples(model, x, y):
    """The noise scale in micro-batches of `SIZE`, from the gradient of every sample in float64."""
    model = copy.deepcopy(model).double()
    rows = []
    for one, target in zip(x.double(), y.double(), strict=True):
        model.zero_grad()
        functional.mse_loss(model(one[None]), target[None]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    table = torch.stack(rows)
    mean = table.mean(0)
    return float((table - mean).square().sum(1).mean() / SIZE / mean.square().sum())


@pytest.mark.parametrize("mean", [True, False])
def test_the_noise_scale_is_that_of_per_sample_gradients(tmp_path, mean):
    torch.manual_seed(3)
    model = nn.Linear(6, 1)
    x, y = teacher()
    with torch.no_grad():  # near the optimum, where noise outweighs the mean
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T + 0.15)
        model.bias.zero_()
    expected = noise_of_samples(model, x, y)
    run = loop(tmp_path, model, x, y, steps=400, mean=mean)
    measured = run.noise_scale(smoothing=0.998).iloc[-1]
    assert expected > 2
    assert measured == pytest.approx(expected, rel=0.2)


def test_norms_are_those_of_the_first_micro_batch_and_of_all(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    x, y = teacher()
    run = loop(tmp_path, model, x, y, steps=5)
    counts, norms = run.accumulation("micro_batches"), run.accumulation("norm")
    assert norms.index.tolist() == [1, 2, 3, 4]  # that micro-batches accumulate is known after the first step
    np.testing.assert_array_equal(counts, [[1, NUMBER]] * 4)
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        model.zero_grad()
        firsts = []
        for _ in range(NUMBER):
            at = torch.randint(len(x), (SIZE,), generator=generator)
            (functional.mse_loss(model(x[at]), y[at]) / NUMBER).backward()
            firsts.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
        if step:
            assert norms.loc[step].tolist() == pytest.approx([firsts[0], firsts[-1]], rel=1e-5)


@pytest.mark.parametrize("zero", [True, False])
def test_gradients_that_are_zeroed_in_place_begin_anew(tmp_path, zero):
    run = loop(tmp_path, nn.Linear(6, 1), *teacher(), steps=4, zero=zero)
    assert len(run.accumulation("norm")) == 3


def test_the_first_norm_is_unscaled(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    x, y = teacher()
    plain = loop(tmp_path / "plain", copy.deepcopy(model), x, y, steps=4).accumulation("norm")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = loop(tmp_path / "scaled", model, x, y, steps=4, scaler=scaler).accumulation("norm")
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_without_accumulation_nothing_is_known_and_that_is_said(tmp_path):
    run = loop(tmp_path, nn.Linear(6, 1), *teacher(), steps=4, number=1)
    assert run.accumulation("norm").empty
    assert run.noise_scale().isna().all()
    summary = run.summary()
    assert summary.noise_scale is None
    assert summary.noise.of is None
    assert "each step has one batch" in summary.noise.why


def test_two_losses_of_one_batch_are_no_micro_batches(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = teacher()
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            functional.mse_loss(model(x), y).backward()
            sum(p.abs().sum() for p in model.parameters()).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert gradwatch.Run(tmp_path).accumulation("norm").empty


def test_a_pass_that_reaches_other_parameters_is_no_micro_batch(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(6, 1), "b": nn.Linear(6, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = teacher()
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            functional.mse_loss(model["a"](x), y).backward()
            functional.mse_loss(model["b"](x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert gradwatch.Run(tmp_path).accumulation("norm").empty


def test_gradients_that_an_earlier_update_left_are_no_micro_batch(tmp_path):
    """A loop that forgets `zero_grad` adds every batch to all before it."""
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x, y = teacher()
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            functional.mse_loss(model(x), y).backward()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    assert len(gradwatch.Run(tmp_path).accumulation("norm")) == 0


@pytest.mark.parametrize("recorder", ["thread", "process"])
def test_the_training_is_the_same_bit_for_bit(tmp_path, recorder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    plain = copy.deepcopy(model)
    x, y = teacher()
    run = loop(tmp_path, model, x, y, steps=6, rate=0.1, recorder=recorder)
    assert len(run.accumulation("norm")) == 5
    optimizer, generator = torch.optim.SGD(plain.parameters(), lr=0.1), torch.Generator().manual_seed(1)
    for _ in range(6):
        for _ in range(NUMBER):
            at = torch.randint(len(x), (SIZE,), generator=generator)
            (functional.mse_loss(plain(x[at]), y[at]) / NUMBER).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_gradients_are_asked_for_only_where_micro_batches_are_expected():
    batches, asked = MicroBatches(), []
    parameter = torch.ones(2, requires_grad=True)

    def update(losses):
        for number, loss in enumerate(losses):
            batches.before_backward([loss], is_first=number == 0)
            batches.after_backward(lambda: asked.append(len(losses)) or [parameter], is_read=True)
        return batches.take()

    one, other = parameter.sum(), parameter.prod()
    assert [update([one]) for _ in range(3)] == [None] * 3
    assert asked == []
    assert update([one, one]) is None  # known to accumulate from here on
    assert asked == []
    known = update([one, one])
    assert known is not None
    assert known.micro_batches == 2
    assert asked == [2, 2]
    assert update([one, other]) is None
    del asked[:]
    assert [update([one, other]) for _ in range(WAIT_UPDATES - 1)] == [None] * (WAIT_UPDATES - 1)
    assert asked == []
