"""Faults to fix before clipping, each with a run in which there is nothing to fix."""

import dataclasses
import math

import numpy as np

from gradwatch import Run
from gradwatch.analysis.recommend.findings import findings
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.record import Event, ParameterInfo, WeightStats
from gradwatch.testing import replaced, steady, stream, write_run


def weighing(records, weight, update=1e-3):
    """The records with samples of two parameters of this norm each."""
    pair = np.ones(2, np.float32)
    samples = WeightStats(weight_norm=pair * weight / math.sqrt(2), update_norm=pair * weight * update / math.sqrt(2))
    return [dataclasses.replace(r, weights=None if r.step % 50 else samples) for r in records]


def falling(steps, start=2.0, end=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.geomspace(start, end, steps) * np.exp(0.05 * rng.standard_normal(steps))]


def first_of(tmp_path, records, **options):
    return " ".join(Run(write_run(tmp_path / "run", records, **options)).recommend().fix_first)


def test_a_calm_run_has_nothing_to_change_first(tmp_path):
    assert first_of(tmp_path, stream(steady(2000), losses=falling(2000))) == ""


def test_a_learning_rate_that_is_too_high_comes_first(tmp_path):
    losses = falling(500, 2.0, 0.5) + falling(500, 0.5, 1.8)
    said = first_of(tmp_path, weighing(stream(steady(1000), losses=losses), 8.0, update=0.3))
    assert "the median update changes rnn.weight by 30.0% of its norm" in said


def test_an_exploding_initialisation_comes_first(tmp_path):
    norms = [500.0] * 15 + steady(1500)
    assert "the initialisation: the first norms are 5" in first_of(tmp_path, stream(norms))


def test_single_batches_that_stand_out_come_first(tmp_path):
    said = first_of(tmp_path, stream(replaced(steady(2000), {700: 40.0, 1200: 60.0})))
    assert "the data: 2 steps stand out alone (700, 1200), the largest at 60" in said


def test_one_layer_that_carries_the_norm_is_named(tmp_path):
    parameters = [ParameterInfo(name=f"layer{i}.weight", shape=(3, 3)) for i in range(4)]
    records = stream(steady(1000), shares=(0.1, 0.99, 0.05, 0.05), parameters=parameters)
    records = [dataclasses.replace(record, weights=None) for record in records]
    assert "layer1.weight alone has 98% of the squared norm" in first_of(tmp_path, records)


def test_vanishing_gradients_are_no_matter_of_clipping(tmp_path):
    records = stream(steady(1000))
    run = Run(write_run(tmp_path / "run", records))
    event = Event(step=700, kind="vanishing", severity="warning", message="", parameter="rnn.weight")
    history = dataclasses.replace(optimizer_history(run), events=(event,))
    assert any("no clipping cures" in said for said in findings(run, "0", history))


def test_a_run_that_was_clipped_to_death_is_told_so(tmp_path):
    said = first_of(tmp_path, stream(steady(1000), max_norm=0.05))
    assert "100% of the steps were clipped, on average to 0.05 of their norm" in said
    assert "clipped to" not in first_of(tmp_path / "adam", stream(steady(1000), max_norm=0.05), optimizer_class="Adam")


def test_a_threshold_that_never_acts_is_told_so(tmp_path):
    assert "100, never acted: the largest norm was" in first_of(tmp_path, stream(steady(1000), max_norm=100.0))
