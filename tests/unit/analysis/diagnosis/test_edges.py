"""The findings about setbacks, levels and proportions on runs of one step, of ten optimizers, and resumed ones."""

import dataclasses
import json
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis import find
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.testing import replaced, steady, stream, write_run

from .made import calm, changed, codes, falling, parameters, run_of, the, with_layers, with_weights
from .test_recreated import adam, trained

SPIKES = (100, 150, 250, 330)
FOUR = parameters("a.weight", "b.weight", "c.weight", "d.weight")
NEW = {"repeated-spikes", "loss-regressed", "huge-loss", "optimizer-recreated", "updates-out-of-proportion"}


def spikes():
    losses = np.array(falling(400))
    for spike in SPIKES:
        losses[spike : spike + 20] += np.linspace(1, 0, 20)
    return stream(replaced(steady(400), dict.fromkeys(SPIKES, 40.0)), losses=losses.tolist())


def out_of_proportion():
    records = with_layers(calm(400), [1.0] * 4, FOUR)
    return with_weights(records, [10.0] * 4, [0.01, 0.01, 0.01, 0.8])


FAULTS = {
    "repeated-spikes": spikes,
    "loss-regressed": lambda: stream(steady(400), losses=falling(200) + falling(200, 0.5, 1.6)),
    "huge-loss": lambda: stream(steady(400, level=1e6), losses=falling(400, 4e8, 4e8)),
    "updates-out-of-proportion": out_of_proportion,
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_resumed_run_whose_attempts_overlap_is_judged_as_the_run_without_a_break(tmp_path, code):
    """Steps 300 to 349 were made twice: those of the second attempt count."""
    records = FAULTS[code]()
    first = changed(records[:350], total_norm=lambda i: records[i].total_norm * (5.0 if i >= 300 else 1.0))
    second = [dataclasses.replace(record, attempt=1) for record in records[300:]]
    whole = the(run_of(tmp_path / "whole", records, "AdamW"), code)
    resumed = the(Run(write_run(tmp_path / "resumed", [*first, *second], "AdamW")), code)
    assert (resumed.steps, resumed.severity) == (whole.steps, whole.severity)
    assert {k: q.value for k, q in resumed.evidence.items()} == {k: q.value for k, q in whole.evidence.items()}


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_one_step_has_none_of_these(tmp_path, code, steps):
    assert not NEW & set(codes(run_of(tmp_path, FAULTS[code]()[:steps], "AdamW")))


def test_an_optimizer_for_each_of_ten_epochs(tmp_path):
    found = the(trained(tmp_path / "run", adam, epochs=10, steps=6), "optimizer-recreated")
    assert (found.evidence["optimizers"].value, found.evidence["steps"].value) == (10, 60)


def test_of_ten_optimizers_the_one_whose_loss_is_thrown_back_is_named(tmp_path):
    """Each has its own record; a finding about one names it."""
    facts = read_facts(run_of(tmp_path, spikes(), "AdamW"))
    quiet = read_facts(run_of(tmp_path / "quiet", calm(400), "AdamW")).optimizers[0]
    others = [dataclasses.replace(quiet, name=f"quiet{i}") for i in range(9)]
    loud = dataclasses.replace(facts.optimizers[0], name="loud")
    found = find(dataclasses.replace(facts, optimizers=(*others[:5], loud, *others[5:])))
    told = [finding for finding in found if finding.code in NEW]
    assert [(finding.code, finding.optimizer) for finding in told] == [("repeated-spikes", "loud")]
    assert "of optimizer loud" in told[0].what


STAGES = {
    "harder data": [(2.0, 0.5), (1.2, 0.4)],
    "three stages": [(2.0, 0.8), (1.6, 0.6), (1.4, 0.4)],
    "longer sequences": [(3.0, 1.5), (2.2, 1.4), (1.9, 1.3)],
    "pretraining, then another task": [(4.0, 1.0), (2.5, 0.3)],
    "a short last stage": [(2.0, 0.3), (0.6, 0.32)],
    "frozen, then all": [(1.0, 0.6), (0.65, 0.2)],
    "five stages": [(2.0, 1.0), (1.5, 0.8), (1.2, 0.6), (1.0, 0.5), (0.8, 0.4)],
    "noise rises": [(1.0, 0.1), (0.5, 0.12)],
    "a new loss term": [(1.0, 0.2), (0.7, 0.22)],
    "mixed difficulty": [(2.0, 0.6), (0.9, 0.6), (1.0, 0.55)],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_a_staged_training_that_learns_each_stage_gets_no_warning(tmp_path, stages):
    """The loss jumps where the task changes, and falls again."""
    each = 600 // len(stages)
    losses = [x for i, (start, end) in enumerate(stages) for x in falling(each, start, end, seed=i)]
    norms = [x for i in range(len(stages)) for x in steady(each, level=1.0 + 0.3 * i)]
    found = run_of(tmp_path, stream(norms, losses=losses), "AdamW").diagnosis()
    assert [finding.code for finding in found if finding.severity != "info"] == []


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("norms", [(1.0, 0.5), (math.inf, 0.5), (math.inf, math.inf)])
@pytest.mark.parametrize("present", [(True, True), (True, False), (False, False)])
def test_unknown_and_infinite_norms_of_clipped_parameters_raise_no_warning_of_numpy(tmp_path, norms, present):
    records = with_layers(calm(60, losses=falling(60, 1.0, 0.9), max_norm=1e-12), norms, present=present)
    run = run_of(tmp_path, records, "Adam", {"lr": 0.1, "eps": 1e-8, "betas": [0.9, 0.999]})
    assert ("clipped-to-nothing" in codes(run)) == (norms == (1.0, 0.5) and present == (True, True))


SLOW = np.linspace(0.0, 1.0, 200)
NOISE = 0.02 * np.random.default_rng(0).standard_normal(200)


@pytest.mark.parametrize("is_imported", [False, True])
@pytest.mark.parametrize(
    ("rewards", "losses", "told"),
    [
        pytest.param(None, 0.69 + 0.1 * NOISE, [], id="the critic's loss stands"),
        pytest.param(None, 0.5 + SLOW + NOISE, [], id="the critic's loss rises"),
        pytest.param(SLOW + NOISE, 0.5 + 2 * SLOW + NOISE, [], id="the reward rises, and the critic's loss"),
        pytest.param(0.0 * SLOW, 0.5 + NOISE, [], id="the reward stays 0"),
        pytest.param(np.where(SLOW < 0.6, SLOW, 0.05) + NOISE, None, ["reward-lost"], id="the reward falls"),
    ],
)
def test_of_an_actor_and_its_critic_only_a_reward_that_falls_is_told(tmp_path, rewards, losses, told, is_imported):
    """One has a reward, the other a loss, or one of them nothing."""
    meta = None if rewards is None else {"rewards": json.dumps(rewards.tolist())}
    surrogate = None if rewards is None else (0.02 * NOISE).tolist()
    runs = {
        "actor": run_of(tmp_path / "actor", stream(steady(200), losses=surrogate), "Adam", meta=meta),
        "critic": run_of(
            tmp_path / "critic", stream(steady(200), losses=None if losses is None else losses.tolist()), "Adam"
        ),
    }
    facts = {name: read_facts(run) for name, run in runs.items()}
    both = tuple(dataclasses.replace(of.optimizers[0], name=name, has_rivals=True) for name, of in facts.items())
    found = find(dataclasses.replace(facts["actor"], optimizers=both, is_imported=is_imported))
    assert [finding.code for finding in found if finding.severity != "info"] == told
