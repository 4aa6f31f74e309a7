"""Losses that never fall, or stand where nothing has been learnt."""

import numpy as np
import pytest

from gradwatch.testing import steady, stream

from .made import changed, codes, falling, run_of, the


def flat(steps=400, level=2.3, noise=0.01, seed=0):
    return (level * np.exp(noise * np.random.default_rng(seed).standard_normal(steps))).tolist()


def test_a_loss_that_never_falls_is_told_as_information(tmp_path):
    losses = flat()
    found = the(run_of(tmp_path, stream(steady(400), losses=losses)), "no-progress")
    assert (found.severity, found.certainty, found.steps) == ("info", "likely", (0, 399))
    assert found.evidence["loss_first"].value == pytest.approx(np.median(losses[:40]))
    assert found.evidence["loss_last"].value == pytest.approx(np.median(losses[360:]))


@pytest.mark.parametrize(
    "losses",
    [
        falling(400, 2.3, 2.1, 0.01),  # slow, but it falls
        flat(noise=0.5),  # it scatters too much to tell
        flat(steps=99),
        [0.1 * x for x in np.random.default_rng(0).standard_normal(400)],  # of reinforcement learning
        [*falling(40, 2.3, 0.1), *flat(360, 0.1)],  # it was learnt at once
        [10.0, *flat(399)],  # by the first update
        [2.3] * 400,
        [1.0 if step % 50 == 7 else 0.0 for step in range(400)],  # of a margin that nearly every batch keeps
    ],
    ids=["falls", "scatters", "short", "about zero", "at once", "first update", "constant", "zero"],
)
def test_no_progress_is_not_told_of_other_losses(tmp_path, losses):
    assert "no-progress" not in codes(run_of(tmp_path, stream(steady(len(losses)), losses=losses)))


@pytest.mark.parametrize(
    ("losses", "severity"),
    [
        pytest.param(falling(34, 4.69, 4.69, 0.002), "warning", id="stands"),
        pytest.param([18.8, *falling(59, 7.42, 7.41, 0.001)], "warning", id="stands from the second row on"),
        pytest.param([18.8, *falling(59, 1.42, 1.41, 0.001)], None, id="learnt at once"),
        pytest.param(falling(34, 3.69, 3.69, 0.02), None, id="differs from batch to batch"),
        pytest.param(falling(34, 4.7, 4.5, 0.002), None, id="falls slowly"),
        pytest.param(falling(400, 0.6931, 0.6931, 0.05), "warning", id="at the cost of a guess of two, under noise"),
        pytest.param(falling(40, 0.85, 0.7, 0.03) + falling(360, 0.7, 0.7, 0.03), "warning", id="comes down to it"),
        pytest.param(falling(400, 2.3026, 2.3026, 0.05), "warning", id="of a guess of ten"),
        pytest.param(falling(400, 2.2, 2.2, 0.05), None, id="a fine-tuning that stands"),
        pytest.param(falling(400, 0.7, 0.6, 0.05), None, id="falls from the cost of a guess"),
        pytest.param(falling(400, 2.9, 2.3, 0.05), None, id="learns on the way to it"),
        pytest.param(falling(324, 9.75, 9.62, 0.007), "warning", id="higher than what has learnt"),
        pytest.param(falling(324, 9.75, 9.0, 0.007), None, id="falls from there"),
        pytest.param(falling(600, 4.9, 4.9, 0.03), "warning", id="higher than a fine-tuned model, under noise"),
        pytest.param(falling(600, 16.6, 16.6, 0.03), "info", id="higher than any guess, so of another unit"),
        pytest.param(falling(20, 10.9, 7.4) + falling(280, 7.4, 7.35, 0.01), "warning", id="a language model hovers"),
        pytest.param(falling(20, 10.9, 7.4) + falling(280, 7.4, 6.8, 0.01), None, id="a language model learns slowly"),
        pytest.param(falling(10, 2.0, 9.0) + 10 * [0.6931], "warning", id="leaps, and is frozen at a guess"),
        pytest.param(falling(10, 2.0, 9.0) + 10 * [0.6611], None, id="leaps, and is frozen below it"),
        pytest.param([4.4, *falling(10, 7.0, 8.0, 0.05)], "warning", id="few rows, none as low as the first"),
        pytest.param([4.4, *falling(9, 7.0, 8.0, 0.05), 4.5], None, id="few rows, one nearly as low as the first"),
        pytest.param(falling(11, 3.3, 3.3, 1e-4), "warning", id="few rows that do not move"),
        pytest.param(falling(11, 3.3, 3.3, 3e-2), None, id="few rows that scatter"),
        pytest.param(falling(11, 10.8, 10.8, 1e-4), None, id="a language model before its warm-up"),
        pytest.param(
            falling(60, 1.4, 1.4, 0.05) + falling(30, 1.4, 6.5, 0.05) + falling(60, 6.5, 1.4, 0.05),
            "warning",
            id="leaps and comes back to where it began",
        ),
        pytest.param(
            falling(60, 1.4, 1.4, 0.05) + falling(30, 1.4, 6.5, 0.05) + falling(60, 6.5, 1.0, 0.05),
            None,
            id="leaps and comes back to less",
        ),
    ],
)
def test_an_imported_loss_that_stands_as_if_it_did_not_depend_on_the_inputs(tmp_path, losses, severity):
    run = run_of(tmp_path, stream(steady(len(losses)), losses=losses), meta={"source": "trainer_state.json"})
    found = [f.severity for f in run.diagnosis() if f.code == "no-progress"]
    assert found == ([] if severity is None else [severity])


def test_fewer_than_ten_losses_are_told_by_the_last_of_them(tmp_path):
    losses = [4.4, 7.8, 6.0, 8.6, 9.2, 9.2, 7.6, 8.2]
    run = run_of(tmp_path, stream(steady(8), losses=losses), meta={"source": "a file"})
    found = the(run, "no-progress")
    assert "4.4 over the first tenth of the losses and 8.2 over the last" in found.what
    assert found.evidence["loss_last"].value == 8.2
    assert found.evidence["loss_lowest"].value == 4.4


@pytest.mark.parametrize(("left", "told"), [(0.01, True), (0.2, False)])
def test_norms_that_fade_beside_an_imported_loss_that_stands(tmp_path, left, told):
    norms = np.array(steady(400)) * np.geomspace(1.0, left, 400)
    run = run_of(tmp_path, stream(norms, losses=falling(400, 1.2, 1.2, 0.03)), meta={"source": "a file"})
    assert ("no-progress" in [f.code for f in run.diagnosis() if f.severity == "warning"]) == told


@pytest.mark.parametrize(("level", "left", "told"), [(7.6, 0.01, True), (7.6, 0.5, False), (2.6, 0.01, False)])
def test_a_loss_that_stands_high_at_last_without_norms_that_could_move_it(tmp_path, level, left, told):
    losses = falling(25, 3 * level, level, 0.05) + falling(25, level, level, 0.002)
    norms = np.array(steady(50)) * np.geomspace(1.0, left, 50)
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "a file"})
    assert ("no-progress" in [f.code for f in run.diagnosis() if f.severity == "warning"]) == told


def test_a_learning_rate_of_zero_explains_that_there_is_no_progress(tmp_path):
    records = changed(stream(steady(400), losses=flat()), learning_rates=(0.0,))
    found = codes(run_of(tmp_path, records))
    assert "learning-rate-zero" in found
    assert "no-progress" not in found
