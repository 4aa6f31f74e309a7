"""When a threshold is advised, when that is refused, and what is said with either."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.record import Event, StepRecord
from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

from .advised import advise, weighing


@pytest.mark.parametrize(
    ("norms", "says"),
    [
        pytest.param(steady(200), "180 usable steps, at least 300 are needed", id="too short"),
        pytest.param([], "never made a step", id="empty"),
        pytest.param([math.nan] * 500, "is NaN or infinite at step 0", id="all NaN"),
        pytest.param(steady(100) + [math.nan] * 900, "is NaN or infinite at step 100", id="mostly not finite"),
        pytest.param([min(n, 1.0) for n in steady(1000)], "only norms after clipping", id="norms end at a ceiling"),
        pytest.param(
            [float(1.002**i) for i in range(2000)],
            "its median changed by a factor of",
            id="drifting up",
        ),
        pytest.param([float(0.996**i) for i in range(2000)], "the norm drifts", id="drifting down"),
        pytest.param([0.0] * 1000, "is exactly 0 at 100% of the steps", id="zeros"),
    ],
)
def test_refusals(tmp_path, norms, says):
    advice = advise(tmp_path, norms)
    assert says in advice.refused
    assert advice.max_norm is None
    assert advice.policy == "none"
    assert advice.apply == {}


def test_norms_recorded_after_clipping_are_refused_by_their_label(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({"moment": "after clipping"}, {"0": ("SGD", {})})
    writer.append([StepRecord(step=i, total_norm=n) for i, n in enumerate(steady(1000))])
    writer.end_attempt("closed")
    assert "only norms after clipping" in Run(tmp_path).recommend().refused


def test_a_refusal_says_with_what_to_record_another_run(tmp_path):
    norms = steady(150) + [10.0, 1e3, 1e6, math.nan]
    advice = advise(tmp_path, norms)
    assert advice.record_at == pytest.approx(0.28, rel=0.01)
    assert "of a run clipped at 0.28 can be judged" in advice.refused


def test_a_run_that_ends_at_once_or_in_spikes_is_told_with_what_to_record_another(tmp_path):
    """No event says that the training was lost where it ends with its first NaN."""
    ended = advise(tmp_path / "a", [*steady(200), math.nan])
    assert "No clipping threshold would have prevented that" in ended.refused
    assert "no threshold and no learning rate would have prevented it" in ended.fix_first[0]
    assert ended.record_at is None
    writer = StoreWriter(tmp_path / "b")
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    records = weighing(stream(steady(500)), 8.0)
    writer.add_parameters("0", records[0].layers.parameters)
    explosions = [
        Event(step=at, kind="explosion", severity="critical", until=at + 60, message="", observed=1e9)
        for at in range(60, 340, 100)
    ]
    writer.append(records, explosions)
    writer.end_attempt("closed")
    advice = Run(tmp_path / "b").recommend()
    assert "3 spikes use up the rest. The norms before clipping of a run clipped at 1 can" in advice.refused
    assert advice.record_at == pytest.approx(1.0)
    assert advise(tmp_path / "c", steady(200)).record_at is None


def test_a_history_recorded_now_and_then_says_so(tmp_path):
    write(History([Point(10 * i, n) for i, n in enumerate(steady(1000))], "a file"), tmp_path / "run")
    assert any("one of 10 steps was recorded" in reason for reason in Run(tmp_path / "run").recommend().reasons)


def test_the_phases_of_the_run_are_predicted_one_by_one(tmp_path):
    norms = steady(500, level=10.0) + steady(1000) + steady(500, seed=1)
    advice = advise(tmp_path, norms)
    assert [(p.first_step, p.last_step) for p in advice.phases] == [(0, 199), (200, 799), (800, 1399), (1400, 1999)]
    for phase in advice.phases:
        own = np.array(norms[phase.first_step : phase.last_step + 1])
        assert phase.clipped_fraction == pytest.approx(np.mean(own + 1e-6 > advice.max_norm))
        assert phase.mean_clip_coef == pytest.approx(np.minimum(1, advice.max_norm / (own + 1e-6)).mean())


@pytest.mark.parametrize(("optimizer", "says"), [("AdamW", "normalises them"), ("SGD", "no update moves the weights")])
def test_the_reason_depends_on_the_optimizer(tmp_path, optimizer, says):
    assert any(says in reason for reason in advise(tmp_path, steady(1000), optimizer).reasons)


def test_an_existing_threshold_is_mentioned(tmp_path):
    assert any("the run was clipped at 1.3" in r for r in advise(tmp_path, steady(1000), max_norm=1.3).reasons)


def test_the_lines_to_paste_hold_the_number(tmp_path):
    advice = advise(tmp_path, steady(1000))
    assert set(advice.apply) == {"torch", "lightning", "transformers"}
    assert all(f"{advice.max_norm:g}" in line for line in advice.apply.values())


def test_only_warnings_are_to_be_looked_at_first(tmp_path):
    """A lone spike is information; a learning rate that ends early is a warning."""
    calm = stream(replaced(steady(800), {500: 60.0}))
    run = Run(write_run(tmp_path / "calm", calm))
    assert [(f.code, f.severity) for f in run.diagnosis()] == [("spike", "info")]
    assert run.recommend().fix_first == ()
    early = [dataclasses.replace(r, learning_rates=(0.1 * (r.step < 600),)) for r in calm]
    (told,) = Run(write_run(tmp_path / "early", early)).recommend().fix_first
    assert "learning rate is 0" in told
