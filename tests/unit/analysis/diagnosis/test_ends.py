"""A loss that ends far above its best level or its start, and losses that only look like it."""

import dataclasses
import json

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis.ends import climbs_to_the_end, ends_far_above, values_grew
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.sources import read, write
from gradwatch.testing import steady, stream
from gradwatch.text import number

from .made import calm, changed, codes, falling, run_of, the

LEAP = [*steady(100), 100.0, *steady(59)]  # the norms come back, the loss does not
THROWN = [*falling(100, 240.0, 6.0), 348.0, *falling(59, 24.0, 22.0)]


def test_a_loss_that_leaps_and_ends_at_four_times_its_best(tmp_path):
    found = the(run_of(tmp_path, stream(LEAP, losses=THROWN)), "diverged")
    assert (found.severity, found.certainty) == ("critical", "shown")
    assert abs(found.steps[0] - 100) <= 8
    assert not {"spike", "loss-regressed"} & set(codes(run_of(tmp_path / "again", stream(LEAP, losses=THROWN))))


@pytest.mark.parametrize(("end", "told"), [(2.8, True), (0.25, False)])
def test_a_leap_in_the_last_row_of_the_best_tenth_of_a_short_log(tmp_path, end, told):
    """Of 30 rows the third in the best tenth is the leap; a loss that comes back from it is well."""
    losses = [*falling(18, 2.3, 0.3, 0.02), 0.19, 0.2, 11.8, *falling(9, end, end, 0.05)]
    norms = [*steady(20, level=0.5), 7.5, *steady(9, level=0.4)]
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "trainer"})
    assert ("diverged" in codes(run)) == told


def test_a_loss_of_a_language_model_is_judged_by_its_noise(tmp_path):
    """It ends at 1.3 times its best, at half of the height from which it fell."""
    losses = [*falling(100, 10.8, 5.8, 0.005), *falling(60, 7.5, 7.4, 0.005)]
    assert "diverged" in codes(run_of(tmp_path / "lost", stream(LEAP, losses=losses)))
    noisy = [*falling(100, 10.8, 5.8, 0.1), *falling(60, 7.5, 7.4, 0.1)]
    assert "diverged" not in codes(run_of(tmp_path / "noisy", stream(LEAP, losses=noisy)))


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        pytest.param(LEAP, True, id="leap"),
        pytest.param([*steady(100), *steady(60, level=3.0)], True, id="raised"),
        pytest.param([*steady(100), *steady(60, level=0.05)], True, id="fallen to a twentieth"),
        pytest.param([*steady(100), float("inf"), *steady(59)], True, id="infinite once"),
        pytest.param(steady(160), False, id="as before"),
        pytest.param([*steady(100), *steady(60, level=0.3)], False, id="fallen to a third"),
    ],
)
def test_the_norms_bear_witness(tmp_path, norms, told):
    losses = [*falling(100, 4.0, 1.0), *falling(60, 2.5, 2.4)]
    assert ("diverged" in codes(run_of(tmp_path, stream(norms, losses=losses)))) == told


def test_an_end_at_twice_the_start_needs_no_witness(tmp_path):
    losses = [*falling(100, 2.0, 1.0), *falling(60, 5.0, 4.8)]
    assert "diverged" in codes(run_of(tmp_path / "twice", stream(steady(160), losses=losses)))
    near = [*falling(100, 2.0, 1.0), *falling(60, 3.2, 3.0)]
    assert "diverged" not in codes(run_of(tmp_path / "near", stream(steady(160), losses=near)))


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([*falling(100, 2.0, 0.002), *falling(60, 0.005, 0.005)], id="a small loss doubles"),
        pytest.param([*falling(100, 4.0, 1.0), *falling(60, 2.5, 1.0)], id="comes back"),
        pytest.param([*falling(100, 4.0, 1.0), *falling(57, 1.0, 0.95), 2.6, 2.5, 2.6], id="three losses at the end"),
        pytest.param(
            [*falling(100, 4.0, 1.0), *(1.0 + 3.0 * (i % 3 == 0) for i in range(60))], id="some are at the best"
        ),
        pytest.param([*falling(100, -1.0, -4.0), *falling(60, -4.0, -4.1)], id="below zero"),
    ],
)
def test_what_does_not_end_far_above(tmp_path, losses):
    assert "diverged" not in codes(run_of(tmp_path, stream(LEAP, losses=losses)))


def test_a_learning_rate_that_starts_anew_begins_a_phase_of_its_own(tmp_path):
    losses = [*falling(100, 4.0, 1.0), *falling(60, 2.5, 2.4)]
    rates = {
        "anew": [*np.geomspace(1e-3, 1e-5, 100), *np.geomspace(1e-3, 1e-4, 60)],
        "warm-up": [*np.linspace(1e-5, 1e-3, 130), *np.geomspace(1e-3, 1e-4, 30)],
    }
    told = {
        name: "diverged"
        in codes(
            run_of(tmp_path / name, changed(stream(LEAP, losses=losses), learning_rates=lambda i, r=r: (float(r[i]),)))
        )
        for name, r in rates.items()
    }
    assert told == {"anew": False, "warm-up": True}


def resumed(folder, second, norms):
    """A loss that falls from 2 to 0.5 in 200 steps, and is resumed at step 200."""
    records = stream(steady(200), losses=falling(200, noise=0.02))
    records += stream(norms, losses=second, attempt=1, first_step=200)
    return run_of(folder, records)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        pytest.param(1.6, 1.5, id="other data"),
        pytest.param(2.0, 1.4, id="a checkpoint that was not loaded"),
    ],
)
@pytest.mark.parametrize("steps", [60, 200])
def test_a_training_that_is_resumed_with_a_higher_loss_has_not_diverged(tmp_path, begins, ends, steps):
    run = resumed(tmp_path, falling(steps, begins, ends, noise=0.02), [2.5 * norm for norm in steady(steps)])
    assert codes(run) == ["loss-regressed"]
    assert "resumed, at step 200, before its first update" in the(run, "loss-regressed").cause


@pytest.mark.parametrize("begins", [0.5, 1.5], ids=["where it ended", "higher"])
def test_a_resumed_training_may_diverge(tmp_path, begins):
    losses = falling(100, begins, 9.0, noise=0.02)
    assert "diverged" in codes(
        resumed(tmp_path, losses, [n * loss for n, loss in zip(steady(100), losses, strict=True)])
    )


def test_a_training_that_is_resumed_with_a_lower_loss_goes_on(tmp_path):
    assert codes(resumed(tmp_path, falling(200, 0.4, 0.3, noise=0.02), steady(200))) == []


def test_the_loss_of_rivals_may_rise(tmp_path):
    (one,) = read_facts(run_of(tmp_path, stream(LEAP, losses=THROWN))).optimizers
    assert ends_far_above(one)
    assert not ends_far_above(dataclasses.replace(one, has_rivals=True))


def test_a_calm_training_ends_where_it_should(tmp_path):
    assert "diverged" not in codes(run_of(tmp_path, calm()))


@pytest.mark.parametrize(
    ("norms", "losses", "told"),
    [
        pytest.param([1.0, 1, 2, 9, 5, 6], [3.1, 2.9, 2.8, 7.4, 9.1, 8.5], True, id="leaves all before"),
        pytest.param([1.0, 1, 1, 0.04, 0.05, 0.05], [3.1, 2.9, 2.8, 7.4, 9.1, 8.5], True, id="without a gradient"),
        pytest.param([1.0, 9, 5, 6], [3.1, 17, 21, 18], True, id="four rows"),
        pytest.param([0.5, 2, 2, 1.4, 2], [0.13, 0.55, 0.40, 0.43, 0.38], False, id="noise: a first loss that is low"),
        pytest.param([0.5, 0.4, 1.9, 1, 1.2], [0.338, 0.321, 1.748, 0.778, 1.077], False, id="noise: two that are low"),
        pytest.param([1.0, 1.1, 60, 9, 30], [1.0, 1.2, 6.5, 40.0, 900.0], True, id="five rows, without end"),
        pytest.param([1.2, 0.6, 1, 1.4, 1.9], [0.45, 0.17, 0.35, 0.6, 0.85], False, id="noise: four rows that climb"),
        pytest.param([1.0, 1, 2, 2, 2, 2], [3.1, 2.9, 2.8, 7.4, 9.1, 8.5], False, id="the norms stay"),
        pytest.param([1.0, 1, 2, 9, 5, 6], [3.1, 2.9, 2.8, 7.4, 9.1, 4.5], False, id="comes near again"),
        pytest.param([1.0, 1, 1, 1, 7, 6], [3.1, 2.9, 2.8, 2.8, 7.4, 9.1], False, id="two rows"),
        pytest.param([1.0, 1, 1, 1, 30, 6], [3.1, 2.9, 2.8, 2.8, 9.4, 9.9], True, id="two rows threefold"),
        pytest.param([1.0, 1, 1, 9, 9, 9], [3.1, 2.9, 2.8, 3.3, 3.6, 3.9], True, id="rises by a fifth, norms ninefold"),
        pytest.param([1.0, 1, 1, 9, 9, 2], [3.1, 2.9, 2.8, 3.3, 3.6, 3.9], False, id="the last norm came back"),
        pytest.param([2.0, 90.0], [1.5, 63.0], True, id="two rows in all"),
        pytest.param([0.4, 2.0], [3.4, 9.9], False, id="two rows, threefold"),
        pytest.param([1.0, 2e5, 4e13], [0.55, 1.2, 1.7], True, id="three rows, norms without end"),
        pytest.param([1.0, 2e5, 4e13], [0.55, 0.4, 0.3], False, id="three rows, the loss falls"),
        pytest.param([0.5, 0.2, 0.07], [0.04, 0.14, 2.07e8], True, id="three rows, out of every range"),
        pytest.param([0.5, 0.2, 0.07], [-0.04, 0.14, 2.07e8], True, id="out of every range, from below 0"),
        pytest.param([0.5, 0.2, 0.07], [0.04, 0.14, 9e4], False, id="a millionth of a range"),
        pytest.param([0.5, 0.2, 0.07], [0.04, 1e3, 2.07e8], False, id="huge, by less than a millionfold"),
        pytest.param([2.0, 2, 2, 40, 60, 50], [9.0, 7.5, 7.0, 8.5, 8.6, 8.7], True, id="falls and rises again"),
        pytest.param([20.0, 8, 3, 5, 9, 30, 60], [180.0, 290, 45, 52, 67, 108, 328], True, id="climbs to the end"),
        pytest.param([20.0, 8, 3, 5, 9, 30, 60], [340.0, 290, 45, 52, 67, 108, 328], False, id="not above the first"),
        pytest.param([20.0, 8, 3, 5, 4, 30, 60], [180.0, 290, 45, 52, 67, 108, 328], False, id="a norm falls"),
        pytest.param([6e6, 3e6, 3e7, 2e7, 4e7, 7e6, 2e6], [2.6, 2.7, 2.7, 2.6, 2.8, 2.9, 3.3], True, id="huge norms"),
        pytest.param([6.0, 3, 30, 20, 40, 7, 2], [2.6, 2.7, 2.7, 2.6, 2.8, 2.9, 3.3], False, id="usual norms"),
        pytest.param(
            [6e6, 3e6, 3e7, 2e7, 4e7, 7e6, 2e6], [2.6, 2.9, 2.7, 2.6, 2.8, 2.9, 3.3], False, id="not above all"
        ),
    ],
)
def test_few_rows(tmp_path, norms, losses, told):
    assert ("diverged" in codes(run_of(tmp_path, stream(norms, losses=losses)))) == told


def slow(first, last):
    """Norms that grow slowly, with the noise of single steps."""
    return [growth * noise for growth, noise in zip(np.geomspace(first, last, 120), steady(120), strict=True)]


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        pytest.param([17.0, 48, 888, 1.3e3, 4.2e3, 2.5e4], True, id="six rows"),
        pytest.param([2.9e4, 24, 212, 4.3e7, 4.4e4, 9.6e4], True, id="six rows that swing"),
        pytest.param([0.1, 0.03, 0.07, 0.06, 7.2], False, id="one row at the end"),
        pytest.param([0.7, 1.1, 2.5, 4.1], False, id="sixfold"),
        pytest.param([0.2, 0.2, 0.2, 2.5, 3, 3], False, id="fifteenfold"),
        pytest.param([*steady(30), *steady(30, level=300.0)], True, id="many rows, three hundredfold"),
        pytest.param([*steady(30), *steady(20, level=300.0), *steady(10)], False, id="many rows that came back"),
        pytest.param(slow(10.0, 400.0), True, id="many rows, slowly to 400"),
        pytest.param(slow(0.01, 0.4), False, id="many rows, slowly to 0.4"),
        pytest.param(slow(100.0, 250.0), False, id="many large rows, slowly to more than twice"),
    ],
)
def test_norms_alone(tmp_path, norms, told):
    """No loss is known, so the norms have to leave their level by far."""
    file = tmp_path / "log.jsonl"
    file.write_text("".join(f'{{"step": {step}, "grad_norm": {norm}}}\n' for step, norm in enumerate(norms)))
    write(read([file]), tmp_path / "run")
    assert ("diverged" in codes(Run(tmp_path / "run"))) == told


def test_large_norms_that_grow_beside_a_loss_that_falls(tmp_path):
    records = stream(slow(10.0, 400.0), losses=list(np.geomspace(1e3, 1.0, 120)))
    assert "diverged" not in codes(run_of(tmp_path, records))


def test_norms_that_grow_while_the_reward_rises(tmp_path):
    norms = [4.6, 16, 52, 125, 207, 173, 473, 378, 480]
    for name, rewards in (("falls", np.linspace(0.8, 0.55, 9)), ("rises", np.linspace(0.55, 0.8, 9))):
        file = tmp_path / f"{name}.jsonl"
        rows = [
            {"step": i, "grad_norm": n, "reward": float(r)} for i, (n, r) in enumerate(zip(norms, rewards, strict=True))
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        write(read([file]), tmp_path / name)
        assert ("diverged" in codes(Run(tmp_path / name))) == (name == "falls")


def test_a_critic_without_a_constraint(tmp_path):
    """Its loss falls for ever, and the norms grow with it."""
    growth = np.geomspace(1.0, 1e7, 200)
    run = run_of(tmp_path / "critic", stream(list(growth), losses=list(-growth)), "Adam")
    assert "diverged" in codes(run)
    tenfold = np.geomspace(1.0, 10.0, 200)
    run = run_of(tmp_path / "tenfold", stream(list(tenfold), losses=list(-tenfold)), "Adam")
    assert "diverged" not in codes(run)


def swinging(every, rows=60):
    """Losses of which one in so many leaps out of every range, and norms that leap with them."""
    losses = [0.2, 1.0, 0.3, *(1e9 * (1 + i % 7) if i % every == 9 else 0.3 + 0.01 * (i % 11) for i in range(rows))]
    return [100.0 * loss for loss in losses], losses


@pytest.mark.parametrize(
    ("every", "reward", "told"),
    [
        pytest.param(10, 16.0, True, id="in a tenth of the rows"),
        pytest.param(31, 16.0, False, id="once"),
        pytest.param(10, 1.6e6, False, id="no farther than the square of the reward"),
    ],
)
def test_a_loss_that_leaves_every_range_again_and_again_has_not_come_back(tmp_path, every, reward, told):
    norms, losses = swinging(every)
    rewards = json.dumps(np.geomspace(1.0, reward, len(losses)).tolist())
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "a file", "rewards": rewards})
    assert ("diverged" in codes(run)) == told
    assert ("spike" in codes(run)) != told
    if told:
        assert the(run, "diverged").steps == (12, 62)


def test_a_task_that_grows_is_learnt_again(tmp_path):
    """At step 60 the loss leaps a thousandfold; it falls below its start and still falls at the end."""
    first, again = falling(60, 1.8, 0.004), falling(60, 9.0, 0.2)
    norms = [*steady(60), *np.geomspace(20.0, 1.0, 60)]
    grown = run_of(tmp_path / "grown", stream(norms, losses=[*first, *again]))
    assert "diverged" not in codes(grown)
    stands = run_of(tmp_path / "stands", stream(norms, losses=[*first, *falling(10, 9.0, 0.8), *falling(50, 0.8, 0.7)]))
    assert "diverged" in codes(stands)


def test_larger_targets_are_no_divergence(tmp_path):
    """They double in a regression that had not learnt: the error is four times as large, the gradient twice."""
    losses = [*falling(80, 0.5, 0.5), *falling(80, 2.0, 2.0)]
    doubled = [*steady(80), *steady(80, level=2.0)]
    assert "diverged" not in codes(run_of(tmp_path / "targets", stream(doubled, losses=losses)))
    assert "diverged" in codes(run_of(tmp_path / "norms stay", stream(steady(160), losses=losses)))


def test_a_loss_that_rises_from_its_first_row_on(tmp_path):
    norms, losses = [1.3, *steady(99, level=6.0)], [1.57, *falling(99, 2.6, 2.9)]
    assert "diverged" in codes(run_of(tmp_path / "rises", stream(norms, losses=losses)))
    assert "diverged" not in codes(run_of(tmp_path / "norms stay", stream(steady(100, level=1.3), losses=losses)))


def test_a_long_training_that_climbs_in_its_last_rows(tmp_path):
    norms, losses = steady(60), falling(60)
    ends = [2.0, 5.0, 9.0, 20.0], [0.6, 1.1, 2.0, 4.0]
    assert "diverged" in codes(run_of(tmp_path / "climbs", stream([*norms, *ends[0]], losses=[*losses, *ends[1]])))
    below = [0.5, 0.7, 1.1, 1.6]
    assert "diverged" not in codes(run_of(tmp_path / "below", stream([*norms, *ends[0]], losses=[*losses, *below])))


SLOWLY = 0.02 + 0.4 / (1 + np.exp(-np.linspace(-5, 4, 200)))  # errors of values that grow with the return
ROOT = np.sqrt(SLOWLY / SLOWLY[0])


@pytest.mark.parametrize(
    ("losses", "norms", "told"),
    [
        pytest.param(SLOWLY, ROOT, False, id="values that grow slowly"),
        pytest.param(SLOWLY, ROOT**3, True, id="norms that grow by more"),
        pytest.param(SLOWLY**2, ROOT**2, True, id="growth by a factor of hundreds, with norms as its root"),
        pytest.param(np.r_[SLOWLY[:100], SLOWLY[100:] + 9 * np.exp(-np.linspace(0, 4, 100))], ROOT, True, id="a peak"),
        pytest.param(np.geomspace(0.02, 4.0, 200), np.geomspace(1, 14, 200), True, id="growth to the end"),
        pytest.param(np.r_[np.full(100, 0.02), np.full(100, 0.4)], np.repeat([1, 12], 100), True, id="a leap"),
    ],
)
def test_errors_of_values_that_a_model_learns_from_its_own_may_grow(tmp_path, losses, norms, told):
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(200))
    run = run_of(tmp_path, stream(np.array(steady(200)) * norms, losses=list(losses * noise)))
    assert ("diverged" in codes(run)) == told


@pytest.mark.parametrize(
    ("last", "norm", "told"), [(1.4, 2.0, True), (1.4, 1.0, False), (0.95, 2.0, False), (1.05, 1.8, False)]
)
def test_few_losses_that_rise_from_the_first_one_to_that_of_chance(tmp_path, last, norm, told):
    losses = np.r_[np.linspace(1.0, last, 12), np.full(13, last)] + 0.01 * np.random.default_rng(0).standard_normal(25)
    norms = np.array(steady(25)) * np.r_[np.ones(8), np.full(17, norm)]
    run = run_of(tmp_path, stream(norms, losses=list(losses)), meta={"source": "a file"})
    assert ("diverged" in codes(run)) == told


@pytest.mark.parametrize(
    ("losses", "norms", "told"),
    [
        pytest.param(-np.linspace(1, 7000, 300), np.linspace(2, 800, 300), True, id="a critic without a bound"),
        pytest.param(-np.linspace(1, 7000, 300), np.ones(300), False, id="the same with norms that stay"),
        pytest.param(np.linspace(3, -4, 300), np.linspace(2, 800, 300) ** 0.5, False, id="a likelihood"),
        pytest.param(-np.linspace(50, 700, 300), np.linspace(2, 800, 300), False, id="a loss that begins low"),
    ],
)
def test_a_loss_that_has_no_least_value(tmp_path, losses, norms, told):
    run = run_of(tmp_path, stream(np.array(steady(300)) * norms, losses=list(losses)))
    assert ("diverged" in codes(run)) == told
    if told:
        found = the(run, "diverged")
        assert found.steps[0] == 0
        assert found.remedy.startswith("bound the loss")


RAISED = [*steady(80), *np.geomspace(1.0, 30.0, 120).tolist()]  # thirtyfold, to the end


@pytest.mark.parametrize(
    ("norms", "losses", "told"),
    [
        pytest.param(RAISED, [*falling(80, 10.0, 6.5, 0.01), *falling(120, 6.5, 6.5, 0.01)], True, id="it stands"),
        pytest.param(
            RAISED, [*falling(80, 10.0, 6.5, 0.01), *falling(120, 6.5, 6.7, 0.01)], True, id="it rises a little"
        ),
        pytest.param(RAISED, [*falling(80, 10.0, 6.5, 0.01), *falling(120, 6.5, 6.0, 0.01)], False, id="it falls on"),
        pytest.param(
            steady(200), [*falling(80, 10.0, 6.5, 0.01), *falling(120, 6.5, 6.5, 0.01)], False, id="calm norms"
        ),
    ],
)
def test_norms_that_grow_while_the_loss_falls_no_more(tmp_path, norms, losses, told):
    run = run_of(tmp_path, stream(norms, losses=losses))
    assert ("diverged" in codes(run)) == told
    if told:
        found = the(run, "diverged")
        assert found.severity == "warning"
        assert f"while its loss fell no more (to {number(run.summary().loss.last)})" in found.what


def test_a_loss_that_began_far_above_its_end_was_not_lifted_by_targets(tmp_path):
    """Its rise is 15 times its best level, and a thirtieth of its fall."""
    rise = 0.2 * 20 ** (1 - np.exp(-np.arange(150) / 60))
    norms = [*steady(150), *np.linspace(1.0, 1.8, 150)]
    grown = run_of(tmp_path / "grown", stream(norms, losses=[*np.geomspace(0.5, 0.2, 150), *rise]))
    assert values_grew(read_facts(grown).optimizers[0])
    fallen = run_of(tmp_path / "fallen", stream(norms, losses=[*np.geomspace(100.0, 0.2, 150), *rise]))
    assert not values_grew(read_facts(fallen).optimizers[0])
    found = the(fallen, "loss-regressed")
    assert found.severity == "warning"
    assert "times that level" in found.what


@pytest.mark.parametrize(
    ("end", "level", "told"),
    [
        pytest.param(1.8, 2.5, True, id="half above its start"),
        pytest.param(1.8, 1.0, False, id="calm norms"),
        pytest.param(1.25, 2.5, False, id="near its start"),
    ],
)
def test_a_long_loss_that_ends_above_its_start(tmp_path, end, level, told):
    losses = [*falling(60, 1.2, 1.15, 0.05), *falling(60, 1.15, end, 0.05), *falling(280, end, end, 0.05)]
    run = run_of(tmp_path, stream([*steady(60), *steady(340, level=level)], losses=losses))
    assert ("diverged" in codes(run)) == told


@pytest.mark.parametrize(("rows", "told"), [(6, True), (2, False)])
def test_the_last_rows_of_a_long_training_leave_together(tmp_path, rows, told):
    end = [3.0, 3.4, 3.1, 3.6, 3.2, 3.5][-rows:]
    losses, norms = [*falling(400), *end], [*steady(400), *[9.0] * rows]
    assert ("diverged" in codes(run_of(tmp_path, stream(norms, losses=losses)))) == told


@pytest.mark.parametrize(("last", "told"), [(2.36, True), (1.4, False)])
def test_a_loss_that_the_first_updates_threw_off_and_that_only_came_back(tmp_path, last, told):
    losses = [2.3, 5.0, 9.0, 8.0, *falling(196, 4.0, last, 0.02)]
    norms = [1.0, 20.0, 60.0, 30.0, *steady(196)]
    assert ("diverged" in codes(run_of(tmp_path, stream(norms, losses=losses)))) == told


@pytest.mark.parametrize(("usual", "climbs"), [(2.0, True), (50.0, False)])
def test_four_losses_that_grow_among_many_climb_only_above_those_that_are_usual(usual, climbs):
    """With batches of one row, losses up to ``usual`` come all the time."""
    before = np.tile([1.0, usual, 0.1, usual / 2], 20)
    losses, norms = np.r_[before, 0.3, 1.8, 2.6, 20.0], np.sqrt(np.r_[before, 0.3, 1.8, 2.6, 20.0])
    assert climbs_to_the_end(losses, norms) == climbs
