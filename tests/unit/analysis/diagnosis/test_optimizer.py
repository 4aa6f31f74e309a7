"""Optimizers known by what they do, eps, learning rate and initialisation."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.optimizer import learning_rate_too_high
from gradwatch.analysis.history import RunReader
from gradwatch.record import Event, UpdateStats
from gradwatch.store import StoreWriter
from gradwatch.testing import PARAMETERS, steady, stream

from .made import calm, changed, codes, falling, run_of, the, with_layers, with_weights


def test_eps_counts_by_entry_for_adam_alone(tmp_path):
    records = with_layers(calm(300), [1e-9, 1e-9])
    assert the(run_of(tmp_path / "adam", records, "Adam", {"eps": 1e-8}), "eps-starvation").severity == "info"
    assert "eps-starvation" not in codes(run_of(tmp_path / "muon", records, "Muon", {"eps": 1e-8}))
    assert "eps-starvation" not in codes(run_of(tmp_path / "far", records, "Adam", {"eps": 1e-12}))


def test_a_learning_rate_that_is_too_high(tmp_path):
    losses = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
    large = with_weights(stream(steady(1000), losses=losses), [1.0, 1.0], [0.3, 0.3])
    found = the(run_of(tmp_path / "large", large), "learning-rate-too-high")
    assert "changes rnn.weight by 30% of its norm" in found.what
    small = with_weights(stream(steady(1000), losses=losses), [1.0, 1.0], [1e-3, 1e-3])
    assert "learning-rate-too-high" not in codes(run_of(tmp_path / "small", small))
    down = with_weights(stream(steady(1000), losses=falling(1000)), [1.0, 1.0], [0.3, 0.3])
    assert "learning-rate-too-high" not in codes(run_of(tmp_path / "down", down))


def test_of_several_optimizers_a_rate_that_seems_too_high_is_information(tmp_path):
    losses = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
    run_of(tmp_path, with_weights(stream(steady(1000), losses=losses), [1.0, 1.0], [0.3, 0.3]))
    facts = read_facts(RunReader(tmp_path))
    one = facts.optimizers[0]
    told = [learning_rate_too_high(facts, dataclasses.replace(one, has_rivals=rivals)) for rivals in (False, True)]
    assert [finding and finding.severity for finding in told] == ["warning", "info"]


def test_updates_out_of_proportion_name_the_matrices(tmp_path):
    down = stream(steady(600), losses=falling(600))
    found = the(run_of(tmp_path / "one", with_weights(down, [1.0, 1.0], [1e-3, 0.1])), "updates-out-of-proportion")
    assert (found.severity, found.parameters) == ("info", ("out.weight",))
    assert (
        "changes out.weight by 10% of its norm and the other matrices by 0.1% of theirs; beside its first" in found.what
    )
    assert found.what.endswith("its update is 100 times theirs")
    assert found.steps[0] >= 250, "the first half is left out"
    for name, sizes, updates in [
        ("alike", [1.0, 1.0], [0.1, 0.1]),
        ("near", [1.0, 1.0], [1e-2, 0.09]),
        ("small", [1.0, 1.0], [4e-5, 4e-3]),
        ("next to nothing", [1.0, 1e-6], [1e-3, 1e-5]),
        ("frozen to 0", [1.0, 0.0], [1e-3, 0.0]),
        ("not finite", [1.0, math.nan], [1e-3, math.inf]),
        ("infinite weights", [1.0, math.inf], [1e-3, 1e-3]),
    ]:
        assert "updates-out-of-proportion" not in codes(run_of(tmp_path / name, with_weights(down, sizes, updates)))
    short = with_weights(down[:200], [1.0, 1.0], [1e-3, 0.1], every=50)
    assert "updates-out-of-proportion" in codes(run_of(tmp_path / "short", short))
    one = with_weights(down[:100], [1.0, 1.0], [1e-3, 0.1], every=50)
    assert "updates-out-of-proportion" not in codes(run_of(tmp_path / "one later sample", one))


def test_a_matrix_that_hardly_changes_beside_larger_entries_is_named(tmp_path):
    down = stream(steady(600), losses=falling(600))
    found = the(run_of(tmp_path / "one", with_weights(down, [1.0, 10.0], [1e-3, 1e-4])), "updates-out-of-proportion")
    assert found.parameters == ("out.weight",)
    assert "initial weights of these parameters are far larger" in found.cause
    as_large = with_weights(down, [1.0, 1.0], [1e-3, 1e-5])  # by a lower rate
    assert "updates-out-of-proportion" not in codes(run_of(tmp_path / "as large", as_large))


def test_weights_that_grew_until_their_ratio_is_ordinary_are_still_named(tmp_path):
    down = stream(steady(600), losses=falling(600))
    began = with_weights(down[:1], [1.0, 0.05], [1e-2, 1e-2], every=1)
    grown = with_weights(down[1:], [1.0, 1.0], [1e-2, 1e-2])
    found = the(run_of(tmp_path, began + grown), "updates-out-of-proportion")
    assert found.parameters == ("out.weight",)
    assert found.evidence["times"].value == pytest.approx(20.0)


def test_what_is_known_to_be_an_embedding_is_judged_as_one(tmp_path):
    """A large embedding of which a step moves few rows is no fault; one that moves twice as much as the rest is."""
    down = stream(steady(600), losses=falling(600))
    rare = with_weights(down, [1.0, 10.0], [1e-2, 1e-3])
    known = {"embeddings": '["out.weight"]'}
    assert "updates-out-of-proportion" in codes(run_of(tmp_path / "matrix", rare))
    assert "updates-out-of-proportion" not in codes(run_of(tmp_path / "embedding", rare, meta=known))
    fast = with_weights(down, [1.0, 10.0], [1e-2, 0.3])
    assert "updates-out-of-proportion" not in codes(run_of(tmp_path / "fast matrix", fast))
    assert "updates-out-of-proportion" in codes(run_of(tmp_path / "fast embedding", fast, meta=known))


def test_updates_out_of_proportion_explain_a_loss_that_rises(tmp_path):
    losses = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
    records = with_weights(stream(steady(1000), losses=losses), [1.0, 1.0], [1e-3, 0.3])
    found = run_of(tmp_path, records).diagnosis()
    mine = [finding for finding in found if finding.code in ("updates-out-of-proportion", "learning-rate-too-high")]
    assert {finding.severity for finding in mine} == {"warning"}


def test_a_parameter_that_begins_near_zero_is_no_fault(tmp_path):
    """A class token of 1e-6 moves by many times itself at first."""
    records = with_weights(calm(400), [1e-6, 1], [1e-5, 1e-5])
    assert codes(run_of(tmp_path, records, "AdamW")) == []


@pytest.mark.parametrize(("rates", "says"), [((0.1,), "a warm-up"), (None, "smaller initial weights or")])
def test_large_first_norms_and_a_warm_up_only_where_there_is_none(tmp_path, rates, says):
    records = stream([500.0] * 15 + steady(1500), losses=falling(1515))
    warm = changed(records, learning_rates=lambda i: (0.1 * min(1.0, (i + 1) / 100),))
    run = run_of(tmp_path, records if rates else warm)
    assert says in the(run, "large-initial-norms").remedy


def test_norms_that_fall_to_nothing_began_at_no_fault(tmp_path):
    norms = [4.0 * 0.97**i for i in range(600)]
    assert "large-initial-norms" not in codes(run_of(tmp_path, stream(norms, losses=[n**2 for n in norms])))


def test_ranks_that_part_are_told_by_rank(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    writer.add_parameters("0", PARAMETERS)
    event = Event(step=100, kind="desync", severity="critical", message="", rank=1, parameter="rnn.weight")
    writer.append(calm(), [event])
    writer.end_attempt("closed")
    from gradwatch import Run

    found = the(Run(tmp_path), "desync")
    assert (found.rank, found.parameters, found.steps[0]) == (1, ("rnn.weight",), 100)


def test_an_update_that_jumps_is_information_and_named(tmp_path):
    records = []
    for step, record in enumerate(stream(steady(300, spread=0.05), losses=falling(300, 2.0, 1.0))):
        size = 1e-2 if step == 200 else 1e-3
        norms = np.array([0.8 * size, 0.6 * size], np.float32)
        ratios = np.array([4.0 if step == 198 else 1.0, 1.0], np.float32)
        updates = UpdateStats(update_norm=norms, weight_norm=np.ones(2, np.float32), rms_ratio=ratios)
        records.append(replace(record, updates=updates, update_norm=size, weight_norm=1.0))
    finding = the(run_of(tmp_path, records, "Adam"), "update-spike")
    assert (finding.severity, finding.parameters, finding.steps[0]) == ("info", ("rnn.weight",), 200)
    assert "second moment" in finding.cause
    assert finding.evidence["update_norm"].value == pytest.approx(1e-2)


def held(folder, momentum, clip=math.inf):
    buffer, records = 0.0, []
    losses = falling(400, 2.0, 1.0)
    for step, record in enumerate(stream(steady(400, spread=0.05), losses=losses)):
        norm = record.total_norm * (300.0 if step == 250 else 1.0)
        buffer = momentum * buffer + min(norm, clip)
        coefficient = min(1.0, clip / norm)
        records.append(
            replace(record, total_norm=norm, clip_coef=coefficient, update_norm=0.1 * buffer, weight_norm=1.0)
        )
    return run_of(folder, records, "SGD")


def test_momentum_that_holds_a_spike_is_named_with_the_steps_it_took_to_forget_it(tmp_path):
    finding = the(held(tmp_path / "held", 0.9), "held-spike")
    assert (finding.severity, finding.steps[0]) == ("info", 251)
    assert finding.evidence["steps_to_forget"].value == pytest.approx(math.log(30) / -math.log(0.9), abs=4)
    assert "held-spike" not in codes(held(tmp_path / "clipped", 0.9, clip=2.0))
    assert "held-spike" not in codes(held(tmp_path / "no momentum", 0.0))


def drifting(rates, decay, folder, kind="AdamW"):
    """Norms that rise threefold in the second half."""
    norms = [value * (1.0 if step < 1000 else 3.0) for step, value in enumerate(steady(2000, spread=0.05))]
    losses = falling(2000, 2.0, 1.0)
    records = [
        replace(record, learning_rates=(rate,))
        for record, rate in zip(stream(norms, losses=losses), rates, strict=True)
    ]
    return run_of(folder, records, kind, {"lr": 0.1, "weight_decay": decay})


def test_norms_that_rise_while_the_rate_falls_are_explained_by_weight_decay(tmp_path):
    falling_rate = [0.1 if step < 990 else 0.01 for step in range(2000)]
    run = drifting(falling_rate, 1.0, tmp_path / "falls")
    finding = the(run, "norm-rises-as-rate-falls")
    last = [event for event in run.events() if event.kind == "drift"][-1]
    shrunken = math.exp(1.0 * 0.01 * (last.step - 989))  # of the weights, over the steps at the lower rate
    assert 1.1 < shrunken < 10**0.25, "the new balance is not reached yet"
    assert finding.evidence["expected_rise"].value == pytest.approx(shrunken)
    assert f"weight decay lets them rise {shrunken:.2g}x" in last.message
    of_adam = the(drifting(falling_rate, 0.1, tmp_path / "Adam", "Adam"), "norm-rises-as-rate-falls")
    assert of_adam.evidence["expected_rise"].value == pytest.approx(10**0.25), "how fast its weights shrink is unknown"
    assert "norm-rises-as-rate-falls" not in codes(drifting(falling_rate, 0.1, tmp_path / "too soon"))
    assert "norm-rises-as-rate-falls" not in codes(drifting([0.1] * 2000, 1.0, tmp_path / "level"))
    assert "norm-rises-as-rate-falls" not in codes(drifting(falling_rate, 0.0, tmp_path / "no decay"))
