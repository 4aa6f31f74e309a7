"""The recorded updates in numbers, beside plain maxima of the recorded values."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis import history
from gradwatch.analysis.statistics.updates import largest_rms_ratios, update_summary
from gradwatch.record import UpdateStats
from gradwatch.testing import stream, write_run
from gradwatch.views.console.report import report_lines
from gradwatch.views.console.screen import Screen
from gradwatch.views.json import report
from gradwatch.views.web.view import RunView


def updated_run(folder, ratios, every=1):
    """A run of two parameters whose rms_ratio is given, (steps, 2), at every so many steps."""
    records = []
    for record in stream([1.0] * len(ratios)):
        floats = np.array([0.01, 0.02 * (1 + record.step)], np.float32)
        update = UpdateStats(
            update_norm=floats, weight_norm=np.ones(2, np.float32), rms_ratio=np.array(ratios[record.step], np.float32)
        )
        known = record.step % every == 0
        records.append(
            dataclasses.replace(
                record,
                updates=update if known else None,
                update_norm=float(np.linalg.norm(floats)) if known else None,
                weight_norm=math.sqrt(2) if known else None,
            )
        )
    return Run(write_run(folder, records, optimizer_class="Adam"))


@pytest.mark.parametrize("most", [1, 10_000])
def test_the_largest_ratio_of_each_step_and_whose_it_is(tmp_path, monkeypatch, most):
    monkeypatch.setattr(history, "ENTRIES_PER_READ", most)
    table = np.abs(np.random.default_rng(0).standard_normal((150, 2)))
    table[7] = math.nan
    table[9, 0] = math.nan
    run = updated_run(tmp_path, table)
    largest, at = largest_rms_ratios(run, "0", run.steps().index.to_numpy())
    expected = np.nanmax(np.where(np.isnan(table), -1, table), axis=1)
    expected[7] = math.nan
    np.testing.assert_allclose(largest, expected, rtol=1e-6)
    assert at[7] == -1
    assert at[9] == 1
    np.testing.assert_array_equal(at[10:], table[10:].argmax(axis=1))


def test_steps_without_updates_are_unknown(tmp_path):
    run = updated_run(tmp_path, [[1.0, 2.0]] * 10, every=5)
    largest, _ = largest_rms_ratios(run, "0", run.steps().index.to_numpy())
    assert np.flatnonzero(~np.isnan(largest)).tolist() == [0, 5]
    assert update_summary(run, "0", run.steps()).steps == 2


def test_a_summary_names_the_step_and_the_parameter(tmp_path):
    run = updated_run(tmp_path, [[1.0, 0.5], [3.5, 1.0], [1.2, 1.1]])
    found = run.summary().updates
    assert (found.steps, found.max_rms_ratio, found.max_rms_step) == (3, 3.5, 1)
    assert (found.median_rms_ratio, found.max_rms_parameter) == (pytest.approx(1.2), run.parameters()[0].name)
    assert (found.max_update_step, found.max_update_ratio) == (2, pytest.approx(math.hypot(0.01, 0.06) / math.sqrt(2)))


def test_the_report_its_json_and_the_page_show_the_ratio(tmp_path):
    run = updated_run(tmp_path, [[1.0, 0.5], [3.5, 1.0], [1.2, 1.1]])
    text = " ".join(line.plain.strip() for line in report_lines(run.summary(), Screen(width=140)))
    assert f"rms_ratio of a parameter median 1.2, largest 3.5 in {run.parameters()[0].name} at step 1 (3 steps)" in text
    assert report(run.summary())["updates"]["max_rms_ratio"] == 3.5
    view = RunView(tmp_path)
    np.testing.assert_allclose(view.series(0, 2, 10)["rms_ratio.high"], [1.0, 3.5, 1.2], rtol=1e-6)
    assert "rms_ratio" in view.layers()["stats"]


def test_a_run_without_updates_has_none(tmp_path):
    run = Run(write_run(tmp_path, stream([1.0] * 3)))
    assert run.summary().updates is None
    assert "rms_ratio.high" not in RunView(tmp_path).series(0, 2, 10)
