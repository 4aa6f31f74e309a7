"""Ends above the best level, levels out of range, and what is none of them."""

import dataclasses

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.setbacks import loss_regressed
from gradwatch.testing import steady, stream

from .made import calm, codes, falling, run_of, the, with_weights

STANDS_AT_BEST = falling(400, 19.0, 9.8, 0.02) + falling(100, 9.8, 9.8, 0.02, seed=1)


def huge(rows, level=4e8, end=None):
    return falling(rows, level, end or level, noise=0.3)


def test_an_end_above_the_best_is_a_warning_where_half_of_the_progress_is_undone(tmp_path):
    run = run_of(tmp_path, stream(steady(600), losses=falling(300) + falling(300, 0.5, 1.6)))
    found = the(run, "loss-regressed")
    assert found.severity == "warning"
    assert found.evidence["undone"].value == pytest.approx(0.68, abs=0.1)
    assert 200 < found.steps[0] < 400


@pytest.mark.parametrize(("last", "told"), [(2.3, True), (0.3, False)])
def test_a_loss_that_leaps_within_its_best_tenth(tmp_path, last, told):
    """The leap is no noise of the best level, which would hide how far the end lies above it."""
    losses = falling(200, 2.3, 0.25) + falling(10, 6.0, 2.4) + falling(90, last, last)
    found = [f.severity for f in run_of(tmp_path, stream(steady(300), losses=losses)).diagnosis()]
    assert ("warning" in found) == told


def test_few_losses_whose_last_ones_all_lie_above_the_best(tmp_path):
    run = run_of(tmp_path, stream(steady(80), losses=falling(40) + falling(40, 0.5, 1.6)))
    assert the(run, "loss-regressed").severity == "warning"


@pytest.mark.parametrize(
    ("last", "told"),
    [
        pytest.param([1.1, 2.4, 2.6, 2.5, 2.6], True, id="far above the noise"),
        pytest.param([1.1, 2.4, 2.6, 2.5, 1.5], False, id="on the way back"),
        pytest.param([1.1, 1.1, 1.2, 1.1, 1.2], False, id="by a tenth"),
    ],
)
def test_a_dozen_losses_of_which_the_last_are_far_above_the_best(tmp_path, last, told):
    losses = [3.0, 2.4, 2.0, 1.6, 1.3, 1.1, 1.0, *last]
    assert ("loss-regressed" in codes(run_of(tmp_path, stream(steady(12), losses=losses)))) == told


@pytest.mark.parametrize(
    ("leap", "last", "severities"),
    [
        pytest.param(48.0, 20.0, ["warning"], id="ends above its start"),
        pytest.param(48.0, 14.0, [], id="ends near its start"),
        pytest.param(20.0, 20.0, ["warning"], id="more than its progress is undone anyway"),
    ],
)
def test_a_leap_of_the_first_losses_is_no_height_from_which_they_fell(tmp_path, leap, last, severities):
    losses = [12.4, 12.4, *falling(30, leap, 11.6, 0.005), *falling(30, 12.0, last, 0.005)]
    found = [f for f in run_of(tmp_path, stream(steady(62), losses=losses)).diagnosis() if f.code == "loss-regressed"]
    assert [f.severity for f in found] == severities
    assert all(("above the 12.4 that it began at" in f.what) == (leap > 2 * 12.4) for f in found)


def test_of_several_optimizers_an_end_above_the_best_is_information(tmp_path):
    """The loss of a discriminator rises as the generator learns."""
    run = run_of(tmp_path, stream(steady(600), losses=falling(300) + falling(300, 0.5, 1.6)))
    facts = read_facts(run)
    one = facts.optimizers[0]
    several = dataclasses.replace(facts, optimizers=(one, dataclasses.replace(one, name="g")))
    told = [loss_regressed(of, one) for of in (facts, several)]
    assert [found.severity for found in told if found] == ["warning", "info"]


def test_an_end_above_the_best_to_which_the_loss_comes_down_again_is_information(tmp_path):
    losses = falling(300) + falling(120, 0.5, 1.6) + falling(180, 1.6, 0.9)
    run = run_of(tmp_path, stream(steady(600), losses=losses))
    assert the(run, "loss-regressed").severity == "info"


@pytest.mark.parametrize(
    ("losses", "raised", "severity"),
    [
        pytest.param(falling(300) + falling(300, 0.5, 0.95), 1.0, "warning", id="by nine tenths in the loss alone"),
        pytest.param(falling(300) + falling(300, 0.5, 0.6), 1.0, None, id="by a fifth in the loss alone"),
        pytest.param(falling(300, 9.0, 0.5) + falling(300, 0.5, 0.9), 1.0, "warning", id="by a fifth of a long fall"),
        pytest.param(falling(300, 900.0, 0.5) + falling(300, 0.5, 0.9), 1.0, None, id="by less of a longer fall"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.8, 10.8, 0.02), 4.0, "warning", id="by a tenth"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.8, 10.8, 0.02), 1.0, None, id="in loss alone"),
        pytest.param(STANDS_AT_BEST + falling(100, 10.1, 10.1, 0.02), 4.0, None, id="by a thirtieth"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 1.1, 2.2, 0.01), 1.0, "warning", id="few losses, far"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 1.1, 1.4, 0.01), 1.0, None, id="few losses, not far"),
        pytest.param(falling(12, 3.0, 1.0, 0.01) + falling(8, 3.0, 1.8, 0.01), 1.0, None, id="few that fall again"),
    ],
)
def test_an_end_that_is_clearly_above_the_best(tmp_path, losses, raised, severity):
    """By less where the norms rose as well."""
    few = len(losses) // 6
    norms = np.array(steady(len(losses))) * np.r_[np.ones(len(losses) - few), np.full(few, raised)]
    findings = run_of(tmp_path, stream(norms, losses=losses)).diagnosis()
    found = [f.severity for f in findings if f.code == "loss-regressed"]
    assert found == ([] if severity is None else [severity])


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(falling(600), id="falls"),
        pytest.param(falling(300) + falling(300, 0.5, 0.52), id="stays at its best"),
        pytest.param(falling(7) + falling(7, 0.5, 1.6), id="too few losses"),
        pytest.param(falling(40) + falling(40, 0.5, 0.57), id="few losses that end a little above"),
        pytest.param(falling(600, noise=0.8), id="noise"),
        pytest.param([2.0 + 0.05 * z for z in np.random.default_rng(1).standard_normal(600)], id="never moves"),
        pytest.param([0.1 * z for z in np.random.default_rng(2).standard_normal(600)], id="about zero"),
        pytest.param(falling(600, 0.5, 2.0), id="never fell"),
    ],
)
def test_what_is_no_regress(tmp_path, losses):
    assert "loss-regressed" not in codes(run_of(tmp_path, stream(steady(len(losses)), losses=losses)))


def test_growth_of_loss_and_norms_is_a_divergence_and_told_once(tmp_path):
    losses = falling(300) + falling(300, 0.5, 60.0)
    run = run_of(tmp_path, stream(steady(300) + steady(300, level=30.0), losses=losses))
    assert "diverged" in codes(run)
    assert not {"loss-regressed", "repeated-spikes"} & set(codes(run))


def test_a_level_of_millions_that_does_not_fall(tmp_path):
    found = the(run_of(tmp_path, stream(steady(17, level=1e6), losses=huge(17))), "huge-loss")
    assert (found.severity, found.certainty) == ("warning", "possible")


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param(steady(60, level=1e6), huge(60, 4e8, 2e7), id="falls"),
        pytest.param(steady(60, level=1.0), huge(60), id="small norms: a sum over a large batch"),
        pytest.param(steady(60, level=1e6), huge(60, 100.0), id="a usual level"),
        pytest.param(steady(5, level=1e6), huge(5), id="too few"),
    ],
)
def test_what_is_no_huge_loss(tmp_path, norms, losses):
    assert "huge-loss" not in codes(run_of(tmp_path, stream(norms, losses=losses)))


def test_a_calm_training_has_no_setback(tmp_path):
    assert not {"repeated-spikes", "loss-regressed", "huge-loss"} & set(codes(run_of(tmp_path, calm(600))))


@pytest.mark.parametrize(("decay", "last", "shrunken"), [(0.01, 0.01, True), (0.01, 0.9, False), (0.0, 0.01, False)])
def test_weights_that_decay_takes_away_are_the_cause_of_a_loss_that_comes_back(tmp_path, decay, last, shrunken):
    losses = falling(200, 2.3, 0.2) + falling(200, 0.2, 2.3)
    weights = np.r_[np.ones(200), np.geomspace(1, last, 200)]
    records = [
        one
        for i, record in enumerate(stream(steady(400), losses=losses))
        for one in with_weights([record], [weights[i], weights[i]], [0.03, 0.03])
    ]
    run = run_of(tmp_path, records, "AdamW", {"lr": 1e-3, "weight_decay": decay})
    found = the(run, "loss-regressed")
    assert found.cause.startswith("the weight decay") == shrunken
    assert ("learning-rate-too-high" in codes(run)) != shrunken
    assert ("weight_norm_last" in found.evidence) == shrunken
