"""The few parameters whose updates are read at every step, compared with copies of the weights around it."""

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.measure import Measurement
from gradwatch.measure.measurement import Part
from gradwatch.record import UPDATE_STATS
from gradwatch.recording import weight_sampler
from gradwatch.recording.sentinels import LED, Sentinels

LAYERS = 17


def parameters_of(*shapes, **options):
    return [nn.Parameter(torch.zeros(shape), **options) for shape in shapes]


def with_ratios(*ratios):
    """A reading of all updates with these values of rms_ratio."""
    table = torch.ones(len(UPDATE_STATS), len(ratios), dtype=torch.float64)
    table[UPDATE_STATS.index("rms_ratio")] = torch.tensor(ratios)
    return Measurement(UPDATE_STATS, len(ratios), (Part(list(range(len(ratios))), table, None),))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ([], []),
        (parameters_of((2, 2)), [0]),
        (parameters_of((2,), (2, 2), (2,), (3, 3), (3,)), [1, 3]),
        (parameters_of((3,), (2,)), [0, 1]),  # no matrix
        (parameters_of(*[(2, 2), (2,)] * 5), [0, 2, 4, 6, 8]),
        (parameters_of(*[(2, 2), (2,)] * 9), [0, 2, 4, 12, 14, 16]),
        ([*parameters_of((2, 2), requires_grad=False), None, *parameters_of((2, 2))], [2]),
        ([nn.Parameter(torch.zeros(2, 2, device="meta"))], [0]),
    ],
)
def test_sentinels_are_the_matrices_at_both_ends_of_the_model(parameters, expected):
    assert Sentinels().among(parameters) == expected


def test_matrices_that_led_join_the_largest_first_and_stay():
    sentinels, parameters = Sentinels(), parameters_of(*[(2, 2)] * 14, (2,))
    led = [9.0, 1.0, 1.0, 2.0, 9.0, 3.0, 1.9, 4.0, 5.0, float("nan"), 1.0, 1.0, 1.0, 1.0, 9.0]
    sentinels.follow(with_ratios(*led))
    ends = [0, 1, 2, 11, 12, 13]
    assert sentinels.among(parameters) == sorted([*ends, 4, 8, 7, 5][: 6 + LED])
    sentinels.follow(with_ratios(*[99.0] * 15))
    assert len(sentinels.among(parameters)) == len(ends) + LED


class Late:
    """An event that is complete when it is told."""

    def __init__(self):
        self.is_complete = False

    def query(self):
        return self.is_complete

    def synchronize(self):
        assert self.is_complete, "the training thread waits"


def test_a_reading_that_is_on_its_way_is_looked_at_when_it_has_arrived():
    sentinels, parameters, ready = Sentinels(), parameters_of(*[(2, 2)] * 9), Late()
    (part,) = with_ratios(*[1.0] * 4, 3.0, *[1.0] * 4).parts
    sentinels.follow(Measurement(UPDATE_STATS, 9, (Part(part.positions, part.values, ready),)))
    ends = [0, 1, 2, 6, 7, 8]
    assert sentinels.among(parameters) == ends
    ready.is_complete = True
    assert sentinels.among(parameters) == sorted([*ends, 4])


def test_a_model_that_grows_has_its_new_end():
    sentinels, parameters = Sentinels(), parameters_of(*[(2, 2)] * 7)
    sentinels.among(parameters)
    assert sentinels.among(parameters + parameters_of((2, 2))) == [0, 1, 2, 5, 6, 7]


def train(folder, steps=5, **options):
    """An Adam with 34 parameters, whose updates are read at every third step; return the run and the true updates."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(LAYERS)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    norms = []
    with gradwatch.attach(model, optimizer, folder, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            before = [p.detach().double().clone() for p in model.parameters()]
            optimizer.step()
            pairs = zip(model.parameters(), before, strict=True)
            norms.append([float((p.detach().double() - b).norm()) for p, b in pairs])
    return gradwatch.Run(folder), np.array(norms)


ENDS = [0, 2, 4, 2 * LAYERS - 6, 2 * LAYERS - 4, 2 * LAYERS - 2]


@pytest.fixture
def one_pass(monkeypatch):
    """A small model has its sentinels read, and all updates as often, also where PyTorch's operators read them."""
    monkeypatch.setattr(weight_sampler, "reads_updates_at_once", lambda device: True)


@pytest.mark.parametrize("recorder", ["thread", "process"])
def test_each_step_has_the_updates_of_the_sentinels_and_some_have_all(tmp_path, one_pass, recorder):
    run, expected = train(tmp_path / "run", recorder=recorder)
    assert run.updates("update_norm").index.tolist() == [0, 3]
    np.testing.assert_allclose(run.updates("update_norm"), expected[[0, 3]], rtol=1e-4)
    found = run.sentinels("update_norm")
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert found.columns.tolist() == [f"{at // 2}.weight" for at in ENDS]
    np.testing.assert_allclose(found, expected[:, ENDS], rtol=1e-4)
    steps = run.steps()
    np.testing.assert_allclose(steps["update_norm"].dropna(), np.linalg.norm(expected[[0, 3]], axis=1), rtol=1e-4)
    ratios = run.sentinels("update_ratio")
    np.testing.assert_allclose(ratios * run.sentinels("weight_norm"), found, rtol=1e-5)
    assert run.damaged_rows == 0


@pytest.mark.parametrize("every", [0, 1, 3])
def test_whoever_says_when_updates_are_read_gets_those_steps_only(tmp_path, every):
    run, _ = train(tmp_path / "run", updates_every=every)
    assert run.sentinels().empty
    assert run.updates().index.tolist() == [step for step in range(5) if every and step % every == 0]


def test_a_model_whose_updates_are_read_at_every_step_has_no_sentinels(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert gradwatch.Run(tmp_path / "run").sentinels("update_norm").empty


def test_a_skipped_update_has_no_sentinels(tmp_path, one_pass):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(LAYERS)))
    optimizer = torch.optim.Adam(model.parameters())
    with gradwatch.attach(model, optimizer, tmp_path / "run", skip_nonfinite=True):
        for step in range(5):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            (loss * float("nan") if step == 1 else loss).backward()
            optimizer.step()
    run = gradwatch.Run(tmp_path / "run")
    assert run.steps()["skipped"].tolist() == [False, True, False, False, False]
    assert run.sentinels().index.tolist() == [0, 2, 3, 4]


def test_the_largest_ratio_of_a_run_may_be_that_of_a_sentinel(tmp_path, one_pass):
    """The gradient of one matrix is a thousand times larger at a step at which not all updates are read."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(LAYERS)))
    optimizer = torch.optim.Adam(model.parameters())
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for step in range(8):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            model[1].weight.grad *= 1000 if step == 7 else 1
            optimizer.step()
    run = gradwatch.Run(tmp_path / "run")
    updates = run.summary().updates
    assert (updates.max_rms_step, updates.max_rms_parameter) == (7, "1.weight")
    assert updates.max_rms_ratio == run.sentinels()["1.weight"][7] > 2 * run.updates("rms_ratio").to_numpy().max()
