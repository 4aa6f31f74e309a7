"""What the digests of a long run tell is what its rows do: exactly, but for quantiles."""

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.analysis import long_runs
from gradwatch.analysis.long_runs import ACCURACY, long_layers
from gradwatch.record import LayerStats, ParameterInfo, StepRecord
from gradwatch.store import StoreWriter, digests, step_table
from gradwatch.views.console.layers import layer_table
from gradwatch.views.console.screen import Screen
from gradwatch.views.notebook import render
from gradwatch.views.web.layers import LayerHistory, LongHistory
from gradwatch.views.web.view import RunView

STEPS, PARAMETERS = 3000, 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(digests, "ROWS", 512)
    monkeypatch.setattr(step_table, "MANY_ROWS", 1)
    monkeypatch.setattr(long_runs, "LONG", 100)


def records(first, last, attempt=0):
    infos = tuple(ParameterInfo(name=f"p{i}.weight", shape=(5,)) for i in range(PARAMETERS))
    rng = np.random.default_rng(attempt)
    for step in range(first, last):
        norm = np.exp(rng.normal(size=PARAMETERS)).astype(np.float32)
        counts = np.zeros(PARAMETERS, np.float32)
        zeros = rng.integers(0, 6, PARAMETERS).astype(np.float32)
        if step == 1234:
            norm[2] = 5000
        if step % 500 == 77:
            norm[1], counts[1] = np.nan, 3
        norm[3] = counts[3] = zeros[3] = np.nan  # never a gradient
        total = float(np.sqrt(np.nansum(norm.astype(float) ** 2)))
        yield StepRecord(
            step=step,
            attempt=attempt,
            wall_time=float(step),
            total_norm=total,
            nonfinite=int(np.nansum(counts)),
            loss=1.0,
            layers=LayerStats(parameters=infos, norm=norm, abs_max=norm / 2, nonfinite=counts, zeros=zeros),
        )


def attempt_at(folder, found, end="closed"):
    writer = StoreWriter(folder)
    number = writer.attempt if not (folder / "gradwatch.db").exists() else 0
    writer.begin_attempt({}, {"0": ("SGD", {})})
    found = list(found)
    if number == 0:
        writer.add_parameters("0", found[0].layers.parameters)
    for at in range(0, len(found), 100):
        writer.append(found[at : at + 100])
    if end is not None:
        writer.end_attempt(end)


def write(folder):
    attempt_at(folder, records(0, STEPS))


@pytest.fixture
def run(tmp_path, made_once):
    return made_once(write, tmp_path)


def exactly(folder, monkeypatch, ask):
    with monkeypatch.context() as patch:
        patch.setattr(long_runs, "LONG", 10**9)
        return ask(folder)


def test_a_summary_from_digests_is_the_exact_one_but_for_quantiles(run, monkeypatch):
    found = Run(run).summary()
    exact = exactly(run, monkeypatch, lambda folder: Run(folder).summary())
    assert (found.quantile_error, exact.quantile_error) == (ACCURACY, None)
    assert found.total_norm == exact.total_norm
    for one, other in zip(found.layers[:3], exact.layers[:3], strict=True):
        for name in ("name", "numel", "max", "max_step", "last", "nonfinite_steps", "absent_steps", "update_ratio"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True), name
        for name in ("median", "p99"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=ACCURACY + 1e-6), name
        assert one.zero_fraction == pytest.approx(other.zero_fraction)
    assert found.layers[3] == exact.layers[3]  # never a gradient
    assert found.most_relevant == exact.most_relevant
    assert np.nanmax(found.series.layer_norm[:, 2]) == 5000
    assert found.series.layer_nonfinite[:, 1].sum() == 6
    assert found.layers[3].median is None
    assert found.layers[3].absent_steps == STEPS


def test_rows_that_a_later_attempt_replaced_do_not_count(tmp_path, monkeypatch):
    attempt_at(tmp_path, records(0, 2000))
    attempt_at(tmp_path, records(1700, STEPS, attempt=1))
    long = long_layers(Run(tmp_path), "0")
    assert long is not None
    assert long.steps.tolist() == list(range(STEPS))
    found = Run(tmp_path).summary().layers
    exact = exactly(tmp_path, monkeypatch, lambda folder: Run(folder).summary()).layers
    assert [layer.max for layer in found] == [layer.max for layer in exact]
    assert [layer.max_step for layer in found] == [layer.max_step for layer in exact]
    assert [layer.nonfinite_steps for layer in found] == [layer.nonfinite_steps for layer in exact]


def test_the_rows_that_a_killed_run_leaves_without_a_digest_are_read_as_they_are(tmp_path):
    made = list(records(0, STEPS))
    attempt_at(tmp_path, made, end=None)
    reader = Run(tmp_path)
    digested = max(last for last, _ in reader.layer_digests("0"))
    assert digested == STEPS // 512 * 512 < STEPS
    found = long_layers(reader, "0")
    norms, counts, zeros = ([getattr(one.layers, stat) for one in made] for stat in ("norm", "nonfinite", "zeros"))
    starts = [*range(0, digested, 64), *range(digested, STEPS, 64)]
    assert found.starts.tolist() == starts
    for parameter in range(PARAMETERS):
        bad = [bool(count[parameter] > 0) for count in counts]
        values = [
            long_runs.NOT_FINITE
            if is_bad
            else long_runs.ABSENT
            if np.isnan(norm[parameter])
            else float(norm[parameter])
            for is_bad, norm in zip(bad, norms, strict=True)
        ]
        finite = [value for value in values if 0 <= value < long_runs.NOT_FINITE]
        known = [float(zero[parameter]) for zero in zeros if not np.isnan(zero[parameter])]
        assert found.maxima["norm"][:, parameter].tolist() == [max(values[at : at + 64]) for at in starts]
        assert found.high[parameter] == max(finite, default=long_runs.ABSENT)
        assert found.high_at[parameter] == (values.index(max(finite)) if finite else -1)
        assert found.bad[parameter] == sum(bad)
        assert found.absent[parameter] == values.count(long_runs.ABSENT)
        assert found.zeros[parameter] == (sum(known) / len(known) if known else pytest.approx(np.nan, nan_ok=True))
        assert found.sketch.count[found.sketch.parameter == parameter].sum() == len(finite)


def test_without_the_mean_of_zeros_all_else_is_the_same(tmp_path):
    attempt_at(tmp_path, records(0, STEPS), end=None)
    found = long_layers(Run(tmp_path), "0", stats=("norm",), zeros=False)
    whole = long_layers(Run(tmp_path), "0", stats=("norm",))
    assert np.isnan(found.zeros).all()
    assert not np.isnan(whole.zeros[:3]).any()
    for name in ("ids", "steps", "starts", "high", "high_at", "bad", "absent"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_array_equal(found.maxima["norm"], whole.maxima["norm"])
    for name in ("parameter", "bin", "count"):
        np.testing.assert_array_equal(getattr(found.sketch, name), getattr(whole.sketch, name))


def test_a_first_paint_reads_of_the_last_rows_what_it_shows(tmp_path, monkeypatch):
    attempt_at(tmp_path, records(0, STEPS), end=None)
    read, layer_rows = [], Run.layer_rows

    def noted(self, stat, optimizer=None, *, most=-1, **between):
        read.extend([stat] if most < 0 else [])
        return layer_rows(self, stat, optimizer, most=most, **between)

    monkeypatch.setattr(Run, "layer_rows", noted)
    view = RunView(tmp_path)
    read.clear()
    view.layers()
    assert sorted(set(read)) == ["nonfinite", "norm"]


def test_a_short_run_and_one_without_digests_are_read_as_they_are(run, monkeypatch):
    assert exactly(run, monkeypatch, lambda folder: long_layers(Run(folder), "0")) is None
    monkeypatch.setattr(Run, "layer_digests", lambda *_: {})
    assert long_layers(Run(run), "0") is None


def test_report_and_notebook_say_how_exact_the_quantiles_are(run, monkeypatch):
    summary = Run(run).summary()
    lines = "\n".join(line.plain for line in layer_table(summary, Screen(width=120), 3))
    assert "medians and p99 of layers within 1% of exact" in lines
    assert "medians and p99 within 1% of exact" in render(summary)
    exact = exactly(run, monkeypatch, lambda folder: Run(folder).summary())
    assert "of exact" not in render(exact)


# ------------------------------------------------------------------------------------ in the page


@pytest.mark.parametrize("stat", ["norm", "abs_max", "nonfinite", "zeros"])
@pytest.mark.parametrize(("first", "last", "columns"), [(0, 2999, 20), (0, 2999, 100), (100, 900, 60), (5, 40, 100)])
def test_a_tile_of_digests_has_the_largest_of_the_rows_in_each_column(run, stat, first, last, columns):
    reader = Run(run)
    standing = reader.standing("0")
    whole = LayerHistory(stat, "0", PARAMETERS)
    whole.update(reader, standing)
    _, _, rows, _ = whole.exact(reader, standing[:, 0], standing[:, 1])
    found = LongHistory(stat, "0", long_layers(reader, "0"))
    firsts, lasts, values, joined = found.tile(reader, first, last, columns)
    assert firsts[0] <= first
    assert lasts[-1] >= last
    assert (firsts[1:] == lasts[:-1] + 1).all()
    assert len(firsts) <= 2 * columns + 2
    assert joined >= 1
    for begin, end, value in zip(firsts, lasts, values, strict=True):
        assert np.array_equal(value, rows[begin : end + 1].max(axis=0))


@pytest.mark.parametrize("together", [False, True])
def test_a_view_shows_each_statistic_as_the_rows_have_it(run, together):
    reader = Run(run)
    standing = reader.standing("0")
    view = RunView(run)
    if together:
        view.read_all_layers()
    assert view.layers() == RunView(run).layers()
    for stat in ("zeros", "norm", "nonfinite", "abs_max"):  # not the one first that is read by itself
        whole = LayerHistory(stat, "0", PARAMETERS)
        whole.update(reader, standing)
        _, _, rows, _ = whole.exact(reader, standing[:, 0], standing[:, 1])
        about, arrays = view.tile(stat, 0, STEPS - 1, 20)
        assert about["joined"] > 1
        for begin, end, value in zip(arrays["first"], arrays["last"], arrays["values"], strict=True):
            assert np.array_equal(value, rows[begin : end + 1].max(axis=0))


@pytest.mark.parametrize("steps", [1000, 1023, 1024, 1025, 1070])
def test_a_wide_model_is_read_from_its_digests_after_fewer_rows(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(digests, "WIDE", 2)
    monkeypatch.setattr(digests, "EARLY_ROWS", 64)
    monkeypatch.setattr(long_runs, "LONG", 10**9)
    monkeypatch.setattr(long_runs, "ROWS", 512)
    monkeypatch.setattr(long_runs, "MANY_ENTRIES", 1024 * PARAMETERS)
    attempt_at(tmp_path, records(0, steps))
    found = Run(tmp_path).summary()
    assert found.quantile_error == (ACCURACY if steps >= 1024 else None)
    monkeypatch.setattr(long_runs, "MANY_ENTRIES", 10**9)
    exact = Run(tmp_path).summary()
    assert exact.quantile_error is None
    for one, other in zip(found.layers[:3], exact.layers[:3], strict=True):
        for name in ("max", "max_step", "last", "nonfinite_steps", "absent_steps"):
            assert getattr(one, name) == getattr(other, name), name
        for name in ("median", "p99"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=ACCURACY + 1e-6), name
    assert found.layers[3] == exact.layers[3]


def test_the_page_tells_how_exact_its_medians_are(run):
    layers = RunView(run).layers()
    assert layers["quantile_error"] == ACCURACY
    assert layers["layers"][2]["max"] == 5000
    assert layers["layers"][2]["max_step"] == 1234


def test_a_view_follows_a_run_that_grows(run):
    view = RunView(run)
    view.layers()
    attempt_at(run, records(STEPS, STEPS + 700, attempt=1))
    view.refresh()
    about, arrays = view.tile("norm", 0, STEPS + 699, 20)
    assert arrays["last"][-1] == STEPS + 699
    assert about["joined"] == 256


def test_the_frame_of_a_long_run_holds_one_value_once_and_may_be_changed(tmp_path, monkeypatch):
    attempt_at(tmp_path, records(0, STEPS))
    run = Run(tmp_path)
    shared, steps = run.steps_to_read(), run.steps()
    assert shared["loss"].to_numpy().strides == (0,) or int(pd.__version__.split(".")[0]) < 3  # which copies
    with monkeypatch.context() as patch:
        patch.setattr(step_table, "MANY_ROWS", 10**9)  # from the rows
        assert Run(tmp_path).steps().equals(steps)
    steps.loc[3, "loss"] = 7.0
    assert steps["loss"].to_numpy()[2:5].tolist() == [1.0, 7.0, 1.0]
    assert set(run.steps()["loss"]) == {1.0}
