"""NaN by cause: what a threshold could not have prevented gets no advice to clip or to lower the rate."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch.analysis.diagnosis.nonfinite import nonfinite_fault
from gradwatch.record import Event, WeightStats
from gradwatch.testing import replaced, steady, stream

from .made import calm, changed, codes, falling, run_of, the


def nan_at(step, steps=300, losses=None, until=None):
    changes = dict.fromkeys(range(step, until or steps), math.nan)
    return stream(replaced(steady(steps), changes), losses=losses or falling(steps))


def test_a_nan_of_backward(tmp_path):
    losses = [math.nan if i > 200 else loss for i, loss in enumerate(falling(300))]
    run = run_of(tmp_path, nan_at(200, losses=losses))
    found = the(run, "nonfinite-gradient")
    assert (found.severity, found.steps, found.optimizer) == ("critical", (200, 299), "0")
    assert found.parameters == ("out.weight",)
    advice = run.recommend()
    assert advice.max_norm is None
    for text in (found.remedy, advice.fix_first[0], run.summary().next):
        assert "no threshold and no learning rate would have prevented it" in text


def test_a_nan_of_the_loss(tmp_path):
    losses = replaced(falling(300), dict.fromkeys(range(200, 300), math.nan))
    assert codes(run_of(tmp_path, nan_at(200, losses=losses)))[0] == "nonfinite-loss"


def test_a_loss_that_stays_finite_over_nan_hides_one(tmp_path):
    run = run_of(tmp_path, nan_at(200, losses=replaced(falling(300), dict.fromkeys(range(200, 300), 0.0))))
    found = the(run, "loss-hides-nan")
    assert "logging_nan_inf_filter" in found.cause
    assert "nonfinite-gradient" not in codes(run)


def test_a_loss_of_zero_beside_norms_that_are_one_number_hides_a_nan(tmp_path):
    """As Trainer and DeepSpeed log it once the forward pass gives NaN; people ask why the loss is 0."""
    run = run_of(tmp_path / "few", stream([2**0.5] * 3, losses=[2.76, 0.0, 0.0]))
    found = the(run, "loss-hides-nan")
    assert (found.severity, found.steps) == ("critical", (1, 2))
    long = run_of(tmp_path / "long", stream([*steady(50), *[1.0] * 50], losses=[*falling(50), *[0.0] * 50]))
    assert the(long, "loss-hides-nan").steps == (50, 99)


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param([1.4, 0.0, 0.0], [2.76, 0.0, 0.0], id="solved"),
        pytest.param([1.4, 1.4, 1.5], [2.76, 0.0, 0.0], id="norms move"),
        pytest.param([1.4, 1.4, 1.4], [0.0, 0.0, 0.0], id="never another loss"),
        pytest.param([1.4, 1.4, 1.4], [2.76, 0.0, 0.1], id="another loss at the end"),
    ],
)
def test_a_loss_of_zero_that_hides_nothing(tmp_path, norms, losses):
    assert "loss-hides-nan" not in codes(run_of(tmp_path, stream(norms, losses=losses)))


def test_one_step_with_a_nan_hides_nothing(tmp_path):
    assert "loss-hides-nan" not in codes(run_of(tmp_path, nan_at(200, until=201)))


def test_growth_that_ends_in_nan_is_growth(tmp_path):
    norms = steady(280) + [2.0**i for i in range(10)] + [math.nan] * 10
    losses = falling(280) + [0.5 * 2.0**i for i in range(10)] + [math.nan] * 10
    run = run_of(tmp_path, stream(norms, losses=losses))
    assert codes(run)[0] == "diverged"
    assert not {"nonfinite-loss", "nonfinite-gradient"} & set(codes(run))


def test_a_norm_that_overflowed_over_finite_entries(tmp_path):
    records = changed(calm(), clip_coef=lambda i: 0.0 if i == 200 else 1.0, max_norm=1.0)
    found = the(run_of(tmp_path, records), "norm-overflow")
    assert found.steps[0] == 200
    assert "float64" in found.remedy


def test_a_scaler_that_never_finds_its_level(tmp_path):
    records = changed(calm(), loss_scale=1.0, skipped=lambda i: i % 2 == 0)
    assert "loss-scale" in codes(run_of(tmp_path, records))
    found = changed(calm(), loss_scale=1024.0, skipped=lambda i: i < 15 or i == 150)
    assert "loss-scale" not in codes(run_of(tmp_path / "near", found))


def test_steps_skipped_for_a_loss_that_is_not_finite_are_no_overflow(tmp_path):
    records = changed(
        calm(), loss_scale=1.0, skipped=lambda i: i % 2 == 0, loss=lambda i: math.nan if i % 2 == 0 else 1.0
    )
    found = codes(run_of(tmp_path, records))
    assert "nonfinite-loss" in found
    assert "loss-scale" not in found


def test_a_skipped_nan_is_a_warning(tmp_path):
    records = [dataclasses.replace(r, skipped=r.step == 200) for r in nan_at(200, until=201)]
    assert the(run_of(tmp_path, records), "nonfinite-gradient").severity == "warning"


def test_weights_that_were_not_finite_before_the_step(tmp_path):
    records = nan_at(200, losses=[None] * 300)
    bad = WeightStats(weight_norm=np.array([1.0, math.nan], np.float32), update_norm=np.zeros(2, np.float32))
    records[200] = dataclasses.replace(records[200], weights=bad)
    found = the(run_of(tmp_path, records), "nonfinite-weights")
    assert found.parameters == ("out.weight",)
    assert found.steps[0] == 200


def test_a_loss_that_is_not_finite_follows_from_such_weights(tmp_path):
    records = nan_at(200, losses=[1.0] * 200 + [math.nan] * 100)
    bad = WeightStats(weight_norm=np.array([1.0, math.nan], np.float32), update_norm=np.zeros(2, np.float32))
    records[200] = dataclasses.replace(records[200], weights=bad)
    assert codes(run_of(tmp_path, records))[0] == "nonfinite-weights"


def test_a_nan_from_the_first_step_on_has_nothing_before_it(tmp_path):
    found = the(run_of(tmp_path, nan_at(0, losses=[None] * 300)), "nonfinite-gradient")
    assert "no step before it was finite" in found.what


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"limit": 0.0, "observed": 3.0}, "entries"),
        ({"observed": math.inf, "parameter": "w"}, "norm"),
        ({"observed": math.inf}, "norm"),
        ({"observed": math.nan, "origin": "loss"}, "loss"),
        ({"observed": math.inf, "origin": "loss"}, "loss"),
        ({"observed": math.nan}, "loss"),  # before schema 3 no event had an origin
    ],
)
def test_what_is_not_finite_is_told_by_the_facts_of_the_event(facts, fault):
    assert nonfinite_fault(Event(step=3, kind="nonfinite", severity="critical", message="", **facts)) == fault


@pytest.mark.parametrize(
    ("start", "until", "last_losses", "severity"),
    [
        pytest.param(150, 151, None, "info", id="one row"),
        pytest.param(150, 152, None, "info", id="two rows"),
        pytest.param(0, 1, None, "info", id="the first row"),
        pytest.param(150, 210, None, "info", id="a fifth of the rows"),
        pytest.param(150, 211, None, "info", id="more, while the loss falls"),
        pytest.param(150, 211, 2.0, "warning", id="more, while it does not"),
        pytest.param(0, 100, 2.0, "info", id="until the loss scale has found its level"),
        pytest.param(298, 299, None, "info", id="the last row but one"),
        pytest.param(299, 300, None, "critical", id="the last row"),
        pytest.param(150, 151, math.nan, "critical", id="the loss is lost"),
    ],
)
def test_in_an_imported_history_finite_rows_after_a_nan_tell_that_its_update_was_left_out(
    tmp_path, start, until, last_losses, severity
):
    """Weights that a NaN went into stay NaN. A recorded run says by itself whether a step was skipped."""
    losses = falling(300) if last_losses is None else [*falling(250), *[last_losses] * 50]
    records = nan_at(start, until=until, losses=losses)
    imported = run_of(tmp_path / "a", records, meta={"source": "trainer_state.json"})
    found = [f for f in imported.diagnosis() if f.code.startswith("nonfinite") or f.code == "loss-hides-nan"]
    assert all(f.severity == severity or f.code == "loss-hides-nan" for f in found)
    assert found or start == 0
    recorded = [f for f in run_of(tmp_path / "b", records).diagnosis() if f.code.startswith("nonfinite")]
    assert all(f.severity != "info" for f in recorded)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ([50], "at step 50,"),
        (range(50, 100), "from step 50 on,"),
        ([50, 60, 70], "at 3 steps from step 50 on,"),
        ([99], "from step 99 on,"),
    ],
)
def test_how_long_a_loss_was_not_finite_is_said(tmp_path, lost, says):
    norms, losses = steady(100), falling(100)
    for step in lost:
        norms[step] = losses[step] = math.nan
    assert says in the(run_of(tmp_path, stream(norms, losses=losses)), "nonfinite-loss").what


@pytest.mark.parametrize(("norms", "severity"), [([math.nan, 4.0], "info"), ([4.0, math.nan], "critical")])
def test_of_two_imported_rows_a_finite_last_one_tells_that_the_weights_are_finite(tmp_path, norms, severity):
    run = run_of(tmp_path, stream(norms, losses=[1.9, 0.9]), meta={"source": "trainer_state.json"})
    assert the(run, "nonfinite-gradient").severity == severity


@pytest.mark.parametrize(("lost", "severity"), [((0, 1), "info"), ((4, 5), "critical")])
def test_a_loss_that_is_not_finite_is_harmless_in_the_first_imported_rows(tmp_path, lost, severity):
    """There a loss scale finds its level; a loss that is lost later has another cause."""
    norms, losses = [steady(9), falling(9)]
    for row in lost:
        norms[row] = losses[row] = math.nan
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "trainer_state.json"})
    assert [f.severity for f in run.diagnosis() if f.code.startswith("nonfinite")] == [severity]


def test_a_few_rows_of_a_long_imported_history_hide_no_nan(tmp_path):
    """Finite rows after them show that the weights are finite, so the finite loss beside them is the real one."""
    norms = replaced(steady(1000), dict.fromkeys((300, 500, 650, 900), math.nan))
    run = run_of(tmp_path, stream(norms, losses=falling(1000)), meta={"source": "trainer_state.json"})
    found = [f for f in run.diagnosis() if f.code.startswith("nonfinite") or f.code == "loss-hides-nan"]
    assert [(f.code, f.severity) for f in found] == [("nonfinite-gradient", "info")]


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_learning_rate_that_is_no_number(tmp_path, rate):
    """As a schedule of zero warm-up steps makes it; the loss is the first to show it."""
    losses = [math.nan if i > 200 else loss for i, loss in enumerate(falling(300))]
    records = nan_at(201, losses=losses)
    spoilt = [*records[:200], *(dataclasses.replace(record, learning_rates=(rate,)) for record in records[200:])]
    found = the(run_of(tmp_path / "spoilt", spoilt), "nonfinite-weights")
    assert (found.severity, found.certainty, found.steps) == ("critical", "shown", (201, 299))
    assert f"the learning rate was {rate} at step 200" in found.what
    late = [*records[:201], *(dataclasses.replace(record, learning_rates=(rate,)) for record in records[201:])]
    assert "nonfinite-weights" not in codes(run_of(tmp_path / "late", late)), "the NaN was there before"
    unknown = [dataclasses.replace(record, learning_rates=(math.nan,)) for record in records]
    assert "nonfinite-weights" not in codes(run_of(tmp_path / "unknown", unknown))
