"""Histories of policies: their reward tells what their loss, a surrogate, does not."""

import json

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.sources import read, write
from gradwatch.testing import steady, stream
from gradwatch.text import number

from .made import codes, falling, run_of, the

RNG = np.random.default_rng(0)
NOISE = 0.05 * RNG.standard_normal(100)
RISES = np.linspace(0.2, 0.9, 100) + NOISE
FALLS = np.r_[np.full(60, 0.9), np.zeros(40)] + NOISE
SELDOM = np.where(np.random.default_rng(4).random(100) < np.linspace(0.1, 0.5, 100), 0.5, 0.0)
STUCK = np.r_[np.linspace(-0.7, -1.0, 10), np.full(90, -1.0)]


def policy(folder, rewards, norms=None, losses=None):
    """An imported run with a reward in each row."""
    norms = steady(len(rewards)) if norms is None else norms
    meta = {"source": "a file", "rewards": json.dumps(list(map(float, rewards)))}
    return run_of(folder, stream(norms, losses=losses), meta=meta)


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param(FALLS, True, id="falls for good"),
        pytest.param(FALLS - 1.5, True, id="falls below 0"),
        pytest.param(RISES, False, id="rises"),
        pytest.param(np.r_[FALLS[:80], RISES[80:]], False, id="falls and comes back"),
        pytest.param(np.r_[np.full(60, 0.9), np.full(40, 0.85)] + NOISE, False, id="falls by a twentieth"),
        pytest.param(np.r_[np.full(60, 0.9), np.full(40, 0.75)] + 10 * NOISE, False, id="falls within its noise"),
        pytest.param(FALLS[::10], False, id="ten rows"),
        pytest.param(
            np.r_[np.linspace(8.0, 8.5, 50), np.full(50, 8.0)] + NOISE, False, id="by a sixteenth of its level"
        ),
        pytest.param(
            np.r_[np.linspace(8.0, 8.5, 50), np.full(50, 8.0)] + NOISE - 20, False, id="by little of its size"
        ),
        pytest.param(FALLS - 50, False, id="by little of a far lower level"),
        pytest.param(np.r_[np.linspace(0, 4, 40), np.linspace(4, 1, 60)] + 10 * NOISE, True, id="slowly under noise"),
    ],
)
def test_a_reward_that_is_lost(tmp_path, rewards, told):
    run = policy(tmp_path, rewards)
    assert ("reward-lost" in codes(run)) == told
    if told:
        found = the(run, "reward-lost")
        assert found.evidence["reward_last"].value == pytest.approx(float(np.median(rewards[-20:])))
        assert found.severity == "warning"


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param(np.r_[np.linspace(0.2, 0.9, 94), np.full(6, 0.1)] + NOISE, True, id="in the last rows"),
        pytest.param(
            np.r_[np.linspace(0.2, 0.9, 94), np.full(6, 0.7)] + NOISE, False, id="by a little in the last rows"
        ),
        pytest.param(np.r_[np.full(96, -27.0), np.full(4, -40.0)] + NOISE, True, id="below all before"),
        pytest.param(np.r_[np.full(98, -27.0), np.full(2, -40.0)] + NOISE, False, id="two rows below all before"),
        pytest.param(SELDOM, False, id="a few rows without a reward that comes now and then"),
    ],
)
def test_a_reward_that_is_lost_in_the_last_rows(tmp_path, rewards, told):
    found = [f for f in policy(tmp_path, rewards).diagnosis() if f.code == "reward-lost"]
    assert [f.evidence["reward_last"].value for f in found] == ([float(np.median(rewards[-5:]))] if told else [])


def test_the_surrogate_loss_of_a_policy_shows_no_regress(tmp_path):
    losses = falling(50, 0.02, 0.01) + falling(50, 0.01, 0.019)
    assert codes(policy(tmp_path / "policy", RISES, losses=losses)) == []
    run = run_of(tmp_path / "other", stream(steady(100), losses=losses), meta={"source": "a file"})
    assert "loss-regressed" in codes(run)


@pytest.mark.parametrize(
    ("rewards", "severity"),
    [
        pytest.param(RISES, "info", id="solved"),
        pytest.param(FALLS, "warning", id="lost"),
        pytest.param(STUCK, "warning", id="one reward for all"),
    ],
)
def test_a_policy_with_few_gradients_is_judged_by_its_reward(tmp_path, rewards, severity):
    norms = [norm * (i % 10 == 0) for i, norm in enumerate(steady(100))]
    assert the(policy(tmp_path, rewards, norms), "zero-gradients").severity == severity


def test_a_policy_with_one_reward_for_all_has_next_to_no_gradient(tmp_path):
    norms = np.array(steady(100)) * np.r_[np.ones(40), np.full(60, 1e-5)]
    found = the(policy(tmp_path / "stuck", STUCK, norms), "zero-gradients")
    assert "next to nothing at 60% of the steps" in found.what
    assert "zero-gradients" not in codes(policy(tmp_path / "better", RISES, norms))
    assert "zero-gradients" not in codes(policy(tmp_path / "trains", STUCK))


@pytest.mark.parametrize(
    ("usual", "other", "left", "told"),
    [
        pytest.param(0.0, 0.25, 0.005, True, id="a row with a reward shows what a gradient is"),
        pytest.param(0.0, 0.25, 0.05, False, id="by a twentieth of it the policy learns something"),
        pytest.param(1.0, 0.25, 0.005, False, id="the reward is stuck at its highest"),
    ],
)
def test_a_policy_whose_reward_is_stuck_at_the_lowest_is_judged_by_its_rows_with_a_reward(
    tmp_path, usual, other, left, told
):
    rewards, norms = np.full(21, usual), np.array(steady(21, level=left))
    rewards[1], norms[1] = other, 1.7
    found = [f for f in policy(tmp_path, rewards, norms).diagnosis() if f.code == "zero-gradients"]
    assert [f.severity for f in found] == (["critical"] if told else [])


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param(np.tile([0.0, 0, 0, 0, 0.25], 20), True, id="a reward in every fifth row"),
        pytest.param(np.sort(np.tile([0.0, 0, 0, 0, 0.25], 20)), False, id="more and more"),
        pytest.param(np.tile([0.0, 0.25], 50), False, id="in every second"),
        pytest.param(np.zeros(100), False, id="a number that never changes"),
    ],
)
def test_a_policy_that_hardly_ever_earns_a_reward(tmp_path, rewards, told):
    found = [f.severity for f in policy(tmp_path, rewards).diagnosis() if f.code == "no-progress"]
    assert found == (["warning"] if told else [])


@pytest.mark.parametrize(
    ("rewards", "error", "told"),
    [
        pytest.param(np.zeros(40), 0.5, True, id="nothing is ever earned"),
        pytest.param(np.zeros(40), -0.5, False, id="nothing, but the loss is a surrogate"),
        pytest.param(-15 + np.tile([1.0, -1.0], 60), 0.5, True, id="a return below 0 that stands"),
        pytest.param(-15 + np.tile([1.0, -1.0], 25), 0.5, False, id="in too few rows"),
        pytest.param(np.full(40, -200.0), 0.5, True, id="one and the same return below 0"),
        pytest.param(np.full(40, 200.0), 0.5, False, id="one and the same return above 0"),
        pytest.param(np.r_[np.full(4, -2.0), np.zeros(96)], 0.5, True, id="nothing in nearly all rows"),
        pytest.param(
            np.r_[np.linspace(-1700, -600, 30), np.linspace(-1900, -250, 40)], 0.5, False, id="it came near to 0"
        ),
        pytest.param(15 + np.tile([1.0, -1.0], 60), 0.5, True, id="a return above 0 that stands"),
        pytest.param(15 + np.tile([1.0, -1.0], 25), 0.5, False, id="in too few rows to say so"),
        pytest.param(
            np.linspace(15, 17, 120) + np.tile([1.0, -1.0], 60), 0.5, False, id="a return above 0 that gets better"
        ),
        pytest.param(np.r_[0.9, np.tile([0.3, 0.4], 15)], 0.5, True, id="a reward that never comes back"),
        pytest.param(np.r_[0.9, np.tile([0.3, 0.4], 15), 0.9], 0.5, False, id="a reward that comes back once"),
        pytest.param(0.6 + np.tile([0.1, -0.1], 60), 0.5, False, id="a share of right answers that stands"),
        pytest.param(np.tile([0.0, 0.0, -0.05, 0.05], 25), 0.5, True, id="next to none, on both sides of 0"),
        pytest.param(np.linspace(-15, -12, 120) + np.tile([1.0, -1.0], 60), 0.5, False, id="it gets better"),
    ],
)
def test_a_value_learner_whose_return_stands(tmp_path, rewards, error, told):
    found = [f for f in policy(tmp_path, rewards, losses=[error] * len(rewards)).diagnosis() if f.code == "no-progress"]
    assert [f.severity for f in found] == (["warning"] if told else [])


def test_a_value_learner_whose_errors_grow_far_while_its_return_falls_from_its_best(tmp_path):
    rng = np.random.default_rng(0)
    losses = np.r_[np.geomspace(0.5, 0.05, 60), np.geomspace(0.05, 0.7, 140)] * np.exp(0.5 * rng.standard_normal(200))
    norms = np.array(steady(200)) * np.r_[np.ones(60), np.geomspace(1.0, 60.0, 140)]
    noise = 2 * rng.standard_normal(200)
    for name, end in (("falls", 9.0), ("rises", 24.0)):
        rewards = np.r_[np.full(60, 3.0), np.full(60, 14.0), np.linspace(14.0, end, 80)] + noise
        found = codes(policy(tmp_path / name, rewards, norms, losses.tolist()))
        assert ("diverged" in found) == (name == "falls")


def test_at_the_end_a_quarter_of_the_rows_is_enough(tmp_path):
    norms = np.array(steady(100)) * np.r_[np.ones(74), np.full(26, 1e-5)]
    assert the(policy(tmp_path, STUCK, norms), "zero-gradients").severity == "warning"


ROW = {"step": 0, "loss": 0.01, "grad_norm": 0.5, "learning_rate": 1e-6, "reward": 0.5}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainer_state.json", lambda rows: json.dumps({"log_history": rows})),
        ("log.jsonl", lambda rows: "\n".join(map(json.dumps, rows))),
        ("log.csv", lambda rows: "\n".join([",".join(ROW), *(",".join(map(str, row.values())) for row in rows)])),
        ("out.log", lambda rows: "\n".join(map(str, rows))),
        (
            "verl.log",
            lambda rows: "\n".join(
                f"step:{r['step']} - actor/grad_norm:0.5 - actor/lr:1e-06 - critic/score/mean:{r['reward']}"
                for r in rows
            ),
        ),
    ],
)
def test_the_reward_is_read_from_what_people_have(tmp_path, name, text):
    rewards = [round(float(reward), 3) for reward in FALLS]
    rows = [ROW | {"step": i, "reward": reward} for i, reward in enumerate(rewards)]
    (tmp_path / name).write_text(text(rows) + "\n")
    write(read([tmp_path / name]), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert json.loads(run.meta()["rewards"]) == rewards
    assert "reward-lost" in codes(run)


@pytest.mark.parametrize(("printed", "told"), [("0.000000", False), ("0", True), ("0.0e+00", True)])
def test_a_rate_that_is_printed_as_zero_in_fixed_decimals_is_not_known_to_be_zero(tmp_path, printed, told):
    line = "Epoch: [0]  [{:5d}/17227]  eta: 8:06:56  lr: {}  loss: 5.99 (5.99)  grad_norm: {:.4f} (inf)  time: 1.5"
    lines = [line.format(10 * i, printed, norm) for i, norm in enumerate(steady(60))]
    (tmp_path / "a.log").write_text("\n".join(lines))
    write(read([tmp_path / "a.log"]), tmp_path / "run")
    assert ("learning-rate-zero" in codes(Run(tmp_path / "run"))) == told
    table = "\n".join(["step,grad_norm,lr", *(f"{i},{norm},{printed}" for i, norm in enumerate(steady(60)))])
    (tmp_path / "a.csv").write_text(table)
    write(read([tmp_path / "a.csv"]), tmp_path / "table")
    assert ("learning-rate-zero" in codes(Run(tmp_path / "table"))) == told


SCATTERED = -1000.0 * np.random.default_rng(0).exponential(np.linspace(4.0, 1.0, 400))
TENFOLD = np.array(steady(100)) * np.geomspace(1, 100, 100)


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param(np.r_[np.full(60, 0.9), np.full(40, 0.5)] + NOISE, True, id="by 44%"),
        pytest.param(np.r_[np.full(60, 0.9), np.full(40, 0.68)] + NOISE, True, id="by a quarter"),
        pytest.param(np.r_[np.full(60, -90.0), np.full(40, -1600.0)] * (1 + 8 * NOISE), True, id="far, scattered"),
        pytest.param(np.r_[np.full(100, 2900.0), np.linspace(2900, 1960, 100)] + NOISE[0], True, id="by a third"),
        pytest.param(
            np.r_[np.full(10, -200.0), np.full(50, 70.0), np.full(40, 20.0)] + NOISE[0], True, id="after a poor start"
        ),
        pytest.param(
            np.r_[np.full(10, -200.0), np.full(50, 70.0), np.full(40, 50.0)] + NOISE[0], False, id="by less after one"
        ),
        pytest.param(SCATTERED[::-1], True, id="by most of it, in returns that scatter"),
        pytest.param(SCATTERED, False, id="a rise of returns that scatter"),
    ],
)
def test_a_reward_that_is_lost_in_part(tmp_path, rewards, told):
    assert ("reward-lost" in codes(policy(tmp_path, rewards))) == told


@pytest.mark.parametrize(
    ("rewards", "norms", "told"),
    [
        pytest.param(np.full(100, 0.9) + NOISE - np.linspace(0, 0.05, 100), TENFOLD, True, id="stands"),
        pytest.param(np.zeros(100), TENFOLD, True, id="nothing is ever won"),
        pytest.param(RISES, TENFOLD, False, id="rises"),
        pytest.param(np.zeros(100), TENFOLD**0.3, False, id="norms as larger values leave them"),
    ],
)
def test_values_that_run_away_beside_a_reward_that_does_not_rise(tmp_path, rewards, norms, told):
    losses = list(np.geomspace(0.1, 1.5, 100) * np.exp(NOISE))
    assert ("diverged" in codes(policy(tmp_path, rewards, norms, losses))) == told


EARLY = np.r_[np.full(5, 200.0), np.full(95, 1.8)] * np.exp(NOISE)


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param(EARLY, True, id="falls within its first tenth"),
        pytest.param(EARLY + 2000, False, id="by a twelfth"),
        pytest.param(np.r_[EARLY[:50], np.full(50, 150.0)], False, id="comes back"),
        pytest.param(-EARLY, False, id="rises as early"),
    ],
)
def test_a_reward_that_is_lost_before_its_first_level(tmp_path, rewards, told):
    run = policy(tmp_path, rewards)
    assert ("reward-lost" in codes(run)) == told
    if told:
        found = the(run, "reward-lost")
        assert found.steps[0] < 10
        assert found.evidence["reward_best"].value == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        pytest.param([0.9, 0.5, 1.1, 0.8, 1.3, 0.6, 1.0, 0.5, 0.45, 0.48], False, id="scattered, by two fifths"),
        pytest.param([0.9, 0.5, 1.1, 0.8, 1.3, 0.6, 1.0, 0.5, 0.2, 0.1], True, id="scattered, by more than half"),
        pytest.param([0.9, 0.92, 0.91, 0.9, 0.93, 0.9, 0.91, 0.92, 0.5, 0.52], True, id="steady, by two fifths"),
    ],
)
def test_few_rewards_that_scatter_have_to_fall_by_half(tmp_path, rewards, told):
    assert ("reward-lost" in codes(policy(tmp_path, np.array(rewards)))) == told


@pytest.mark.parametrize(("rewards", "told"), [(RISES, False), (np.full(100, 0.9) + NOISE, True)])
def test_a_huge_loss_of_values_whose_reward_rises_is_none(tmp_path, rewards, told):
    run = policy(tmp_path, rewards, 1e6 * np.array(steady(100)), list(4e8 * np.exp(NOISE)))
    assert ("huge-loss" in codes(run)) == told


@pytest.mark.parametrize(("rewards", "told"), [(np.geomspace(2, 600, 400), False), (np.full(400, 2.0), True)])
def test_norms_that_explode_while_the_policy_earns_more_are_no_divergence(tmp_path, rewards, told):
    norms = np.array(steady(400)) * np.r_[np.ones(100), np.full(300, 50.0)]
    rewards = rewards * np.exp(0.05 * np.random.default_rng(0).standard_normal(400))
    run = policy(tmp_path, rewards, norms, list(np.r_[np.full(100, 0.2), np.full(300, 12.0)]))
    assert any(event.kind == "explosion" and event.severity == "critical" for event in run.events())
    assert ("diverged" in codes(run)) == told


NEAR_ZERO = np.tile([0.0, 0.03, 0.06, 0.02, 0.04], 16)


@pytest.mark.parametrize(
    ("rewards", "severities"),
    [
        pytest.param(NEAR_ZERO, ["warning"], id="stays there"),
        pytest.param(np.sort(NEAR_ZERO), [], id="rises"),
        pytest.param(NEAR_ZERO + 0.4, [], id="well above it"),
        pytest.param(NEAR_ZERO / 100, [], id="of another unit"),
    ],
)
def test_a_reward_that_stays_near_zero(tmp_path, rewards, severities):
    found = [f for f in policy(tmp_path, rewards).diagnosis() if f.code == "no-progress"]
    assert [f.severity for f in found] == severities
    assert all("stands near 0.03 from the first row" in f.what for f in found)


@pytest.mark.parametrize(
    ("rewards", "losses", "told"),
    [
        pytest.param(np.full(100, 0.6) + NOISE, np.linspace(-0.5, -29, 100), True, id="the loss runs away"),
        pytest.param(np.linspace(0.5, 0.8, 100) + NOISE, np.linspace(-0.5, -29, 100), False, id="more is earned"),
        pytest.param(np.full(100, 0.6) + NOISE, np.linspace(-20, -29, 100), False, id="the loss drifts"),
        pytest.param(np.full(100, 0.6) + NOISE, -29 + 10 * NOISE, False, id="the loss stands"),
    ],
)
def test_a_loss_that_grows_beside_a_reward_that_does_not_rise(tmp_path, rewards, losses, told):
    found = [f for f in policy(tmp_path, rewards, losses=list(losses)).diagnosis() if f.code == "no-progress"]
    assert [f.severity for f in found] == (["warning"] if told else [])
    first, last = (number(float(np.median(part))) for part in (losses[:10], losses[-10:]))
    assert all(f"the loss goes from {first} to {last}" in f.what for f in found)


@pytest.mark.parametrize(("column", "told"), [("", True), (",grad_norm", False)])
def test_a_reward_of_zero_in_each_row_is_one_where_nothing_else_is_logged(tmp_path, column, told):
    rest = ",0.5" if column else ""
    (tmp_path / "a.csv").write_text(f"step,reward{column}\n" + "".join(f"{step},0.0{rest}\n" for step in range(60)))
    write(read([tmp_path / "a.csv"]), tmp_path / "run")
    assert ("no-progress" in codes(Run(tmp_path / "run"))) == told
