"""The clipping experiments compute what they claim, compared with autograd, PyTorch's optimizers and scipy."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from ..scripts import BENCHMARKS, load


@pytest.fixture(autouse=True, scope="module")
def _needs_sklearn():
    """Imported by the first test: it takes a second, and every worker collects this module."""
    pytest.importorskip("sklearn")


network, experiment = load("temporal_order/network"), load("temporal_order/experiment")
lab, problems, regret = (load(f"recommendation/{name}") for name in ("lab", "problems", "regret"))


# -------------------------------------------------------------------------------- temporal order


@pytest.fixture
def networks():
    """Four networks of the paper with larger weights, and a batch."""
    started = [network.initial(seed, "basic_tanh") for seed in range(4)]
    weights = {name: torch.stack([one[name] for one in started]) * 3 for name in network.NAMES}
    symbols, labels = network.sequences(np.random.default_rng(0), 13, 20 * 4)
    return weights, symbols.view(4, 20, 13), labels.view(4, 20)


def by_autograd(weights, symbols, labels):
    """The loss of each network, the states and what came before the tanh."""
    own = {name: value.clone().requires_grad_() for name, value in weights.items()}
    h, states, before = torch.zeros(4, 20, 50), [], []
    for t in range(symbols.shape[2]):
        x = nn.functional.one_hot(symbols[:, :, t], 6).float()
        a = torch.bmm(h, own["W"]) + torch.bmm(x, own["U"]) + own["b"].unsqueeze(1)
        a.retain_grad()
        h = a.tanh()
        before.append(a)
        states.append(h)
    scores = torch.bmm(h, own["V"]) + own["c"].unsqueeze(1)
    losses = nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(1)
    losses.sum().backward()
    return own, losses, states, before


def never():
    return torch.full((4,), math.inf)


def test_the_gradients_written_out_are_autograds(networks):
    own, losses, _, _ = by_autograd(*networks)
    made = network.step(*networks, never(), torch.zeros(4))
    torch.testing.assert_close(made.loss, losses)
    for name in network.NAMES:
        torch.testing.assert_close(made.gradients[name], own[name].grad, rtol=1e-4, atol=1e-5)


def test_the_regulariser_is_the_immediate_derivative_of_the_papers_omega(networks):
    _, _, states, before = by_autograd(*networks)
    weight = networks[0]["W"][1].clone().requires_grad_()
    omega = 0
    for k in range(12):
        error = before[k + 1].grad[1]
        back = (error @ weight.T) * (1 - states[k][1].detach() ** 2)
        omega = omega + (back.norm(dim=1) / error.norm(dim=1) - 1).square().mean()
    omega.backward()
    without = network.step(*networks, never(), torch.zeros(4)).gradients["W"]
    with_it = network.step(*networks, never(), torch.tensor([0.0, 2.0, 0.0, 0.0])).gradients["W"]
    torch.testing.assert_close(with_it[1] - without[1], 2 * weight.grad, rtol=1e-3, atol=1e-6)
    assert torch.equal(with_it[0], without[0])


def test_the_truncation_is_hidden_state_clip(networks):
    """The error of each example is limited; autograd sees that of the mean, a twentieth."""
    from gradwatch.clip import HiddenStateClip

    weights, symbols, labels = networks
    own = {name: value.clone().requires_grad_() for name, value in weights.items()}
    truncate, h = HiddenStateClip(0.05 / 20), torch.zeros(4, 20, 50)
    for t in range(13):
        x = nn.functional.one_hot(symbols[:, :, t], 6).float()
        h = truncate((torch.bmm(h, own["W"]) + torch.bmm(x, own["U"]) + own["b"].unsqueeze(1)).tanh())
    scores = torch.bmm(h, own["V"]) + own["c"].unsqueeze(1)
    nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(1).sum().backward()
    made = network.step(*networks, torch.full((4,), 0.05), torch.zeros(4))
    torch.testing.assert_close(made.gradients["W"], own["W"].grad, rtol=1e-4, atol=1e-6)
    assert (made.cut > 0).all()
    assert truncate.cut > 0


def test_the_sequences_are_those_of_the_paper():
    symbols, labels = network.sequences(np.random.default_rng(0), 50, 4000)
    marks = symbols < 2
    assert (marks.sum(1) == 2).all()
    places = marks.nonzero()[:, 1].view(-1, 2)
    assert (int(places[:, 0].min()), int(places[:, 0].max())) == (5, 9)
    assert (int(places[:, 1].min()), int(places[:, 1].max())) == (25, 29)
    found = torch.gather(symbols, 1, places)
    assert torch.equal(labels, found[:, 0] + 2 * found[:, 1])
    assert torch.bincount(labels).min() > 900


def test_the_initialisations_are_those_of_the_authors():
    smart = network.initial(3, "smart_tanh")
    assert (smart["W"] != 0).sum(1).tolist() == [15] * 50
    assert torch.linalg.eigvals(smart["W"]).abs().max().item() == pytest.approx(0.95, rel=1e-4)
    assert network.initial(3, "basic_tanh")["W"].std().item() == pytest.approx(0.1, rel=0.1)


def test_wilsons_interval_is_scipys():
    from scipy.stats import binomtest

    for hits, count in ((0, 10), (7, 10), (10, 10), (3, 40)):
        theirs = binomtest(hits, count).proportion_ci(method="wilson")
        assert experiment.wilson(hits, count) == pytest.approx((theirs.low, theirs.high), abs=1e-3)


def test_a_short_experiment_runs_and_prints_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "EVERY", 20)
    outcomes = experiment.train(10, 40, 2)
    assert len(outcomes) == 2 * len(experiment.METHODS)
    assert all(outcome.updates == 40 or outcome.learnt_at for outcome in outcomes)
    experiment.keep(tmp_path / "results.json", outcomes, 40)
    table = experiment.table(json.loads((tmp_path / "results.json").read_text()))
    assert all(f"| {method.name} |" in table for method in experiment.METHODS)
    clipped = {outcome.method for outcome in outcomes if outcome.clipped}
    assert "AutoClip, percentile 10" in clipped
    assert "SGD" not in clipped


# -------------------------------------------------------------------------------- recommendation


def problem(name):
    return next(task for task in problems.EVERY if task.name == name)


def by_pytorch(task, trial, steps, optimizer):
    """One training of a digits network by PyTorch's own modules."""
    started = task.initial(np.random.default_rng([trial.seed, 1]))
    weights = {name: nn.Parameter(torch.tensor(value, dtype=torch.float32)) for name, value in started.items()}
    made = optimizer(weights.values())
    stream = np.random.default_rng([trial.seed, 2])
    norms, losses = [], []
    for _ in range(steps):
        x, labels = task.batch(stream)
        for i in range(2):
            x = torch.tanh(x @ weights[f"w{i}"] + weights[f"b{i}"])
        loss = nn.functional.cross_entropy(x @ weights["w2"] + weights["b2"], labels)
        made.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights.values(), trial.max_norm)))
        losses.append(loss.item())
        made.step()
    return norms, losses


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["SGD", "Momentum", "Adam", "AdamW"])
def test_trainings_side_by_side_are_each_what_pytorch_makes_of_it(kind, decay):
    import dataclasses

    task = dataclasses.replace(problem("mlp-digits-momentum"), optimizer=kind)
    trials = [lab.Trial(seed, rate, limit) for seed in (0, 3) for rate in (0.01, 0.05) for limit in (0.3, 1e9)]
    history = lab.train(task, trials, steps=40, decay=decay)
    for at, trial in enumerate(trials):
        settings = {"lr": trial.rate, "weight_decay": decay}
        optimizers = {
            "SGD": lambda weights, of=settings: torch.optim.SGD(weights, **of),
            "Momentum": lambda weights, of=settings: torch.optim.SGD(weights, momentum=0.9, **of),
            "Adam": lambda weights, of=settings: torch.optim.Adam(weights, **of),
            "AdamW": lambda weights, of=settings: torch.optim.AdamW(weights, **of),
        }
        norms, losses = by_pytorch(task, trial, 40, optimizers[kind])
        np.testing.assert_allclose(history.norms[:, at], norms, rtol=2e-3)
        np.testing.assert_allclose(history.losses[:, at], losses, rtol=2e-3)


def test_a_policy_sees_each_training_by_itself():
    from gradwatch.clip import AutoClip

    task = problem("mlp-digits-momentum")
    trials = [lab.Trial(0, 0.05, policy="auto"), lab.Trial(0, 0.01)]
    history = lab.train(task, trials, steps=40, policies={"auto": lambda: AutoClip(10).threshold})
    alone = lab.train(task, trials[:1], steps=40, policies={"auto": lambda: AutoClip(10).threshold})
    np.testing.assert_allclose(history.norms[:, 0], alone.norms[:, 0], rtol=1e-3)


def test_a_lost_training_stays_lost_and_does_not_touch_the_others():
    task = problem("regression-t12-sgd")
    history = lab.train(task, [lab.Trial(0, 0.01), lab.Trial(0, 100.0)], steps=80)
    alone = lab.train(task, [lab.Trial(0, 0.01)], steps=80)
    assert not np.isfinite(history.looks[-1, 1])
    assert history.score()[1] == history.before[1]
    assert history.score()[0] < history.before[0]
    np.testing.assert_allclose(history.norms[:, 0], alone.norms[:, 0], rtol=1e-4)


@pytest.mark.parametrize("split", ["TUNE", "FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH", "REPORT"])
def test_every_problem_trains(split):
    for task in getattr(problems, split):
        history = lab.train(task, [lab.Trial(0, task.rates[0], 1.0)], steps=3)
        assert np.isfinite(history.losses).all(), task.name
        assert np.isfinite(history.before).all(), task.name


def test_no_problem_is_both_tuned_on_and_reported_on():
    names = [task.name for task in problems.EVERY]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_whole_way_from_a_pilot_to_the_table(tmp_path, monkeypatch):
    import dataclasses

    task = dataclasses.replace(problem("softmax-mislabelled-sgd"), steps=1400, rates=(0.05,))
    monkeypatch.setattr(regret, "CACHE", tmp_path)
    monkeypatch.setattr(regret, "SEEDS", 2)
    cells = regret.cells_of(task)
    assert len(cells) == 1
    assert set(cells[0].regret) == {*regret.OURS, regret.OTHERS, *regret.RULES}
    assert all(value > 0.5 for value in cells[0].regret.values())
    table = "\n".join([*regret.overview(cells), *regret.every_cell(cells)])
    assert "| softmax-mislabelled-sgd | 0.05 |" in table
    assert all(advice.max_norm > 0 for advice in cells[0].advice)


def test_the_committed_tables_are_of_these_problems():
    text = (BENCHMARKS / "recommendation" / "RESULTS.md").read_text()
    for task in problems.EVERY:
        for rate in task.rates:
            assert f"| {task.name} | {rate:g} |" in text
    table = (BENCHMARKS / "temporal_order" / "RESULTS.md").read_text()
    assert experiment.table(json.loads((BENCHMARKS / "temporal_order" / "results.json").read_text())) in table
