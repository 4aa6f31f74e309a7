"""The magnitudes of entries in the records of a training."""

import numpy as np
import pytest
import torch

import gradwatch
from gradwatch import Run
from gradwatch.record import MAGNITUDE_BINS

ENTRIES = torch.tensor([[0.0, 0.3, -0.3, 2.0**-30], [5.0, 2.0**-16, 2.0**-20, 100.0]])
COUNTS = {"2^-42": 0, "2^-30": 1, "2^-20": 1, "2^-16": 1, "2^-2": 2, "2^2": 1, "2^6": 1, "zero": 1}


def told(row):
    return {name: int(count) for name, count in row.items() if count or name in COUNTS}


def train(folder, steps=3, between=lambda step, parameters, optimizer: None, factor=1.0, **options):
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, folder, **options):
        for step in range(steps):
            optimizer.zero_grad()
            (model.weight * ENTRIES * factor).sum().backward()
            between(step, model.parameters(), optimizer)
            optimizer.step()
    return Run(folder)


def test_they_are_counted_with_every_second_sample_of_the_weights(tmp_path):
    found = train(tmp_path / "run", steps=9, weights_every=2).magnitudes("weight")
    assert found.index.tolist() == [0, 4, 8]
    assert found.columns.tolist() == list(MAGNITUDE_BINS)
    assert all(told(row) == COUNTS for _, row in found.iterrows())


def test_without_samples_of_the_weights_nothing_is_counted(tmp_path):
    found = train(tmp_path / "run", weights_every=0).magnitudes("weight")
    assert found.shape == (0, len(MAGNITUDE_BINS))


def test_they_are_those_before_clipping(tmp_path):
    def clip(step, parameters, optimizer):
        torch.nn.utils.clip_grad_norm_(parameters, 1e-3)

    run = train(tmp_path / "run", between=clip, weights_every=1)
    assert (run.steps()["clip_coef"] < 1e-4).all()
    assert all(told(row) == COUNTS for _, row in run.magnitudes("weight").iterrows())
    policy = train(tmp_path / "policy", weights_every=1, clip=gradwatch.clip.NormClip(1e-3))
    assert all(told(row) == COUNTS for _, row in policy.magnitudes("weight").iterrows())


def test_gradients_that_the_script_changed_after_clipping_are_not_counted_again(tmp_path):
    def clip_and_change(step, parameters, optimizer):
        (weight,) = parameters
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        weight.grad.mul_(2.0)

    found = train(tmp_path / "run", between=clip_and_change, weights_every=1).magnitudes("weight")
    assert len(found) == 0


def test_the_first_step_that_is_not_finite_is_counted_too(tmp_path):
    def spoil(step, parameters, optimizer):
        if step in (3, 4):
            (weight,) = parameters
            weight.grad[0, 0], weight.grad[0, 1] = torch.nan, torch.inf

    found = train(tmp_path / "run", steps=12, between=spoil, weights_every=5).magnitudes("weight")
    assert found.index.tolist() == [0, 3, 10]
    assert (found.loc[3, "nan"], found.loc[3, "inf"], found.loc[3, "zero"]) == (1, 1, 0)


@pytest.mark.parametrize("unscales", [True, False])
def test_they_are_unscaled_under_a_grad_scaler(tmp_path, unscales):
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1):
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale((model.weight * ENTRIES).sum()).backward()
            if unscales:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    found = Run(tmp_path / "run").magnitudes("weight")
    assert len(found) == 2
    assert all(told(row) == COUNTS for _, row in found.iterrows())


def test_gradients_that_were_measured_before_they_are_unscaled_are_unscaled_once(tmp_path):
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1) as watch:
        scaler.scale((model.weight * ENTRIES).sum()).backward()
        watch.gradients_ready(optimizer)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
    (row,) = Run(tmp_path / "run").magnitudes("weight").to_dict("records")
    assert told(row) == COUNTS


def test_those_that_a_closure_makes_are_counted(tmp_path):
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def closure(factor):
        optimizer.zero_grad()
        loss = (model.weight * ENTRIES * factor).sum()
        loss.backward()
        return loss

    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1):
        for step in range(4):
            optimizer.step(lambda step=step: closure(1.0 if step % 2 == 0 else 2.0))
    found = Run(tmp_path / "run").magnitudes("weight")
    assert found.index.tolist() == [0, 2]
    assert all(told(row) == COUNTS for _, row in found.iterrows())


def test_clipping_before_the_gradients_are_unscaled_leaves_them_out(tmp_path):
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1):
        scaler.scale((model.weight * ENTRIES).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
    assert len(Run(tmp_path / "run").magnitudes("weight")) == 0


def test_a_second_process_records_the_same(tmp_path):
    threads = train(tmp_path / "thread", weights_every=1).magnitudes("weight")
    processes = train(tmp_path / "process", weights_every=1, recorder="process").magnitudes("weight")
    assert threads.equals(processes)
    assert threads.index.tolist() == [0, 2]


def test_a_fault_in_counting_is_told_once_and_the_recording_goes_on(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("gradwatch.recording.weight_sampler.measure_magnitudes", fail)
    run = train(tmp_path / "run", weights_every=1)
    assert len(run.steps()) == 3
    assert len(run.magnitudes("weight")) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "gradwatch can't count the entries of the gradients by magnitude and leaves that out from now on"
        " (RuntimeError: no such kernel) (magnitudes-not-counted)"
    ]


def test_nothing_of_a_training_changes(tmp_path):
    def weights(**options):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with gradwatch.attach(model, optimizer, tmp_path / str(options), **options):
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.randn(4, 8)).pow(2).mean().backward()
                optimizer.step()
        return [parameter.detach().numpy() for parameter in model.parameters()]

    pairs = zip(weights(weights_every=1), weights(weights_every=0), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
