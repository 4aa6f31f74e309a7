"""What the page is shown: at every zoom the least and the largest, no spike and no NaN lost."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.analysis.summary import summarize
from gradwatch.errors import BadArgument, EmptyRun
from gradwatch.record import Event, LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.web.files import files, joined
from gradwatch.views.web.layers import LayerHistory
from gradwatch.views.web.pack import halved, in_planes, pack
from gradwatch.views.web.pyramid import ABSENT, NOT_FINITE, Pyramid
from gradwatch.views.web.series import at_zoom
from gradwatch.views.web.view import MOST_EVENTS, RunView


def infos(count):
    return tuple(ParameterInfo(name=f"layers.{i}.weight", shape=(4, 4)) for i in range(count))


def record(step, norms, *, optimizer="0", attempt=0, nonfinite=None, weights=None):
    norms = np.asarray(norms, np.float32)
    bad = np.where(np.isnan(norms), np.nan, 0).astype(np.float32) if nonfinite is None else np.float32(nonfinite)
    return StepRecord(
        step=step,
        optimizer=optimizer,
        attempt=attempt,
        wall_time=float(step),
        total_norm=float(np.sqrt(np.nansum(norms.astype(float) ** 2))),
        nonfinite=int(np.nansum(bad)),
        layers=LayerStats(parameters=infos(len(norms)), norm=norms, nonfinite=bad),
        weights=weights,
    )


def written(folder, *attempts, optimizers=("0",), parameters=3):
    for records in attempts:
        writer = StoreWriter(folder)
        writer.begin_attempt({}, {name: ("SGD", {"lr": 0.1}) for name in optimizers})
        for name in optimizers:
            writer.add_parameters(name, infos(parameters))
        writer.append(list(records), [])
        writer.end_attempt("closed")
    return Run(folder)


def history(run, stat="norm", optimizer="0"):
    made = LayerHistory(stat, optimizer, len(run.parameters(optimizer)))
    made.update(run, run.standing(optimizer))
    return made


def expected(frame, first, last):
    """The largest of each column, from the whole table; NaN is an absent gradient here."""
    shown = frame.loc[first:last].max()
    return shown.fillna(ABSENT).to_numpy(np.float32)


# -------------------------------------------------------------------------------------- pyramid


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.sampled_from([4, 16]), st.integers(1, 40), st.data())
def test_a_pyramid_that_grew_in_any_parts_has_the_maxima_of_the_table(parts, base, columns, data):
    rng = np.random.default_rng(sum(parts))
    table = rng.random((sum(parts), 2), np.float32)
    pyramid, begin = Pyramid(2, base), 0
    for part in parts:
        pyramid.extend(table[begin : begin + part])
        begin += part
    first = data.draw(st.integers(0, len(table) - 1))
    last = data.draw(st.integers(first + 1, len(table)))
    block = max(base, pyramid.block(last - first, columns))
    start, rows = pyramid.read(block, first, last)
    assert start * block <= first
    assert (start + len(rows)) * block >= last
    for i, row in enumerate(rows):
        part = table[(start + i) * block : (start + i + 1) * block]
        assert row.tolist() == part.max(axis=0).tolist()


@given(st.integers(1, 10**7), st.integers(1, 4000))
def test_a_block_leaves_half_to_twice_the_columns_asked_for(rows, columns):
    block = Pyramid(1).block(rows, columns)
    shown = -(-rows // block)
    assert shown <= 2 * columns
    assert block == 1 or shown >= columns // 2


def test_a_pyramid_of_nothing_is_empty():
    pyramid = Pyramid(3)
    pyramid.extend(np.empty((0, 3), np.float32))
    assert (pyramid.rows, pyramid.nbytes) == (0, 0)


# --------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("columns", [1, 7, 40, 1000])
@pytest.mark.parametrize(("first", "last"), [(0, 2999), (17, 1803), (1200, 1200), (2990, 5000)])
def test_a_tile_has_the_largest_of_each_of_its_columns(tmp_path, columns, first, last):
    rng = np.random.default_rng(0)
    run = written(tmp_path, [record(s, np.exp(rng.normal(size=3))) for s in range(3000)])
    frame = run.layers("norm")
    firsts, lasts, values, joined_steps = history(run).tile(run, first, last, columns)
    assert len(values) <= 2 * columns or joined_steps == 1
    assert firsts[0] <= first
    assert lasts[-1] >= min(last, 2999)
    assert firsts[1:].tolist() == (lasts[:-1] + 1).tolist()
    for begin, end, row in zip(firsts, lasts, values, strict=True):
        assert row.tolist() == expected(frame, begin, end).tolist()


def test_a_single_step_and_what_is_not_finite_are_in_every_zoom(tmp_path):
    rows = [record(s, [1.0, 1.0, np.nan]) for s in range(5000)]
    rows[3210] = record(3210, [1.0, 777.0, np.nan])
    rows[4001] = record(4001, [np.nan, 1.0, np.nan], nonfinite=[3, 0, np.nan])
    rows[4002] = record(4002, [np.inf, 1.0, np.nan], nonfinite=[1, 0, np.nan])
    run = written(tmp_path, rows)
    seen = history(run)
    for columns in (1, 3, 50, 600, 4000):
        values = seen.tile(run, 0, 4999, columns)[2]
        assert values[:, 1].max() == 777.0
        assert values[:, 0].max() == NOT_FINITE
        assert set(values[:, 2].tolist()) == {ABSENT}
    assert seen.bad.tolist() == [2, 0, 0]
    assert (seen.high[1], seen.high_at[1]) == (777.0, 3210)
    assert (seen.high[2], seen.high_at[2]) == (ABSENT, -1)
    assert seen.level().tolist()[:2] == [1.0, 1.0]
    assert np.isnan(seen.level()[2])


def test_what_is_read_while_a_run_is_written_equals_what_is_read_at_its_end(tmp_path):
    rng = np.random.default_rng(1)
    rows = [record(s, rng.random(3)) for s in range(2500)]
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", infos(3))
    live = None
    for begin in range(0, 2500, 311):
        writer.append(rows[begin : begin + 311], [])
        run = Run(tmp_path)
        live = live or LayerHistory("norm", "0", 3)
        live.update(run, run.standing())
    writer.end_attempt("closed")
    whole = history(Run(tmp_path))
    for columns in (3, 100, 900):
        for left, right in zip(live.tile(run, 0, 2499, columns), whole.tile(run, 0, 2499, columns), strict=True):
            assert np.array_equal(left, right)
    assert live.high.tolist() == whole.high.tolist()
    assert live.level().tolist() == whole.level().tolist()


@pytest.mark.parametrize("second", [(400, 900), (400, 450), (600, 700), (0, 20)])
def test_of_a_resumed_run_the_later_attempt_is_shown(tmp_path, second):
    attempts = [
        [record(s, [1.0, 5.0, 1.0]) for s in range(500)],
        [record(s, [2.0, 1.0, 1.0], attempt=1) for s in range(*second)],
    ]
    run = written(tmp_path, attempts[0])
    seen = history(run)
    run = written(tmp_path, attempts[1])
    frame = run.layers("norm")
    seen.update(run, run.standing())
    firsts, lasts, values, _ = seen.tile(run, 0, 1000, 30)
    assert seen.steps.tolist() == frame.index.tolist()
    for begin, end, row in zip(firsts, lasts, values, strict=True):
        assert row.tolist() == expected(frame, begin, end).tolist()
    exact = seen.tile(run, 0, 1000, 1000)
    assert np.array_equal(exact[2], frame.to_numpy(np.float32))


def test_each_optimizer_has_its_own_rows(tmp_path):
    rows = [record(s, [1.0 + o] * 3, optimizer=str(o)) for s in range(1500) for o in range(2)]
    run = written(tmp_path, rows, optimizers=("0", "1"))
    assert [set(history(run, optimizer=name).tile(run, 0, 1499, 20)[2].ravel()) for name in "01"] == [{1.0}, {2.0}]


def test_sampled_weights_have_a_row_for_each_sample(tmp_path):
    weights = WeightStats(weight_norm=np.float32([4, 0, 2]), update_norm=np.float32([1, 1, np.inf]))
    rows = [record(s, [1.0] * 3, weights=None if s % 50 else weights) for s in range(1000)]
    run = written(tmp_path, rows)
    firsts, _, values, _ = history(run, "update_ratio").tile(run, 0, 999, 100)
    assert firsts.tolist() == list(range(0, 1000, 50))
    assert values[0].tolist() == [0.25, ABSENT, NOT_FINITE]


def test_a_long_run_has_a_coarser_pyramid_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.views.web.layers.MOST", 300)
    run = written(tmp_path, [record(s, [1.0, 1.0, 99.0 if s == 1234 else 1.0]) for s in range(2000)])
    seen = history(run)
    assert seen.pyramid.base == 64
    assert seen.tile(run, 0, 1999, 10)[2][:, 2].max() == 99.0
    assert seen.tile(run, 1200, 1300, 60)[2].shape == (101, 3)


def test_steps_without_layers_are_left_out(tmp_path):
    rows = [record(s, [1.0] * 3) for s in range(100)]
    rows[50] = StepRecord(step=50, total_norm=1.0)
    run = written(tmp_path, rows)
    assert len(history(run).tile(run, 0, 99, 100)[0]) == 99
    assert history(run).tile(run, 200, 300, 10)[2].shape == (0, 3)


# --------------------------------------------------------------------------------------- series


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 200), st.data())
def test_the_series_have_the_least_and_the_largest_of_each_column(length, columns, data):
    rng = np.random.default_rng(length)
    norms = np.exp(rng.normal(size=length))
    norms[rng.integers(0, length, 3)] = [np.nan, np.inf, 1e30]
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first, length - 1))
    shown = at_zoom(series_of(norms), first, last, columns)
    assert len(shown["first"]) <= 2 * columns + 1
    assert shown["first"][0] <= first
    assert shown["last"][-1] >= last
    for i, (begin, end) in enumerate(zip(shown["first"], shown["last"], strict=True)):
        part = norms[begin : end + 1]
        finite = part[np.isfinite(part)]
        assert shown["nonfinite"][i] == (~np.isfinite(part)).sum()
        assert shown["infinite"][i] == np.isinf(part).sum()
        if len(finite):
            assert (shown["total_norm.low"][i], shown["total_norm.high"][i]) == (finite.min(), finite.max())
            assert norms[shown["total_norm.at"][i]] == finite.max()
        else:
            assert np.isnan(shown["total_norm.high"][i])


def series_of(norms):
    from gradwatch.analysis.summary import Series

    length = len(norms)
    none = np.full(length, np.nan)
    return Series(
        step=np.arange(length),
        total_norm=norms,
        max_norm=none,
        clip_coef=np.ones(length),
        left_norm=norms,
        clipped=np.zeros(length, bool),
        loss=none,
        loss_nonfinite=np.zeros(length, bool),
        learning_rate=none,
        nonfinite=~np.isfinite(norms),
        layer_norm=np.empty((length, 0), np.float32),
        layer_nonfinite=np.empty((length, 0), bool),
    )


def test_the_series_of_a_run_tell_clipping_and_the_loss(tmp_path):
    losses = [float("nan") if s == 30 else 1.0 for s in range(100)]
    run = Run(write_run(tmp_path, stream([2.0] * 50 + [0.5] * 50, max_norm=1.0, losses=losses)))
    shown = at_zoom(run.summary().series, 0, 99, 10)
    assert shown["clipped"].tolist() == [1.0] * 6 + [0.25] + [0.0] * 6
    assert shown["left_norm.high"][0] == pytest.approx(1.0)
    assert shown["left_norm.high"][-1] == 0.5
    assert shown["max_norm.low"][0] == 1.0
    assert shown["loss.bad"].sum() == 1


def test_the_share_clipped_is_of_a_window_however_near_one_looks(tmp_path):
    run = Run(write_run(tmp_path, stream([2.0, 0.5] * 1000, max_norm=1.0)))
    shown = at_zoom(run.summary().series, 0, 1999, 2000)
    assert len(shown["first"]) == 2000
    assert set(shown["clipped"][100:].tolist()) == {0.5}, "a step alone is clipped or not"


def test_what_is_left_is_not_known_where_entries_were_cut(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([StepRecord(step=0, total_norm=3.0, clip_value=0.1, cut_entries=2)], [])
    writer.end_attempt("closed")
    assert np.isnan(Run(tmp_path).summary().series.left_norm[0])


# ----------------------------------------------------------------------------------------- view


def test_a_view_shows_the_numbers_of_the_summary(tmp_path):
    run = Run(write_run(tmp_path, stream(replaced(steady(600), {400: 80.0}), max_norm=1.0)))
    view, summary = RunView(tmp_path), run.summary()
    overview = view.overview()
    assert overview["verdict"] == summary.verdict
    assert overview["total_norm"]["max"] == summary.total_norm.max
    assert overview["clipping"]["clipped_fraction"] == summary.clipping.clipped_fraction
    assert [event["step"] for event in overview["events"]] == [event.step for event in summary.events]
    layers = view.layers()
    assert [layer["median"] for layer in layers["layers"]] == pytest.approx([one.median for one in summary.layers])
    assert [layer["max"] for layer in layers["layers"]] == pytest.approx([one.max for one in summary.layers])
    assert list(layers["telling"]) == list(summary.telling)
    assert layers["stats"] == ["norm", "abs_max", "zeros", "nonfinite", "update_ratio"]
    assert summarize(run, layers=False).series.layer_norm.shape == (600, 0)


def test_a_view_is_as_of_its_last_refresh(tmp_path):
    rows = stream(steady(400))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    writer.add_parameters("0", rows[0].layers.parameters)
    writer.append(rows[:300], [])
    view = RunView(tmp_path)
    assert view.tile("norm", 0, 1000, 1000)[1]["values"].shape == (300, 2)
    writer.append(rows[300:], [Event(step=399, kind="spike", severity="warning", message="")])
    assert view.tile("norm", 0, 1000, 1000)[1]["values"].shape == (300, 2)
    view.refresh()
    assert view.tile("norm", 0, 1000, 1000)[1]["values"].shape == (400, 2)
    assert view.overview()["events"][0]["step"] == 399
    writer.end_attempt("closed")


def test_a_run_that_nobody_wrote_to_is_not_read_again(tmp_path, monkeypatch):
    write_run(tmp_path, stream(steady(50)))
    view = RunView(tmp_path)
    monkeypatch.setattr("gradwatch.views.web.view.Run", None)  # whoever opens the run now fails
    view.refresh()
    assert view.overview()["steps"] == 50


def test_the_curve_has_the_recommended_threshold_and_falls(tmp_path):
    write_run(tmp_path, stream(steady(800), max_norm=3.0))
    advice = RunView(tmp_path).advice()
    shares = [point["clipped_fraction"] for point in advice["curve"]]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    labelled = {point["label"]: point for point in advice["curve"] if point["label"]}
    assert labelled["in force"]["threshold"] == 3.0
    if advice["max_norm"] is not None:
        assert labelled["recommended"]["clipped_fraction"] == advice["clipped_fraction"]


def test_a_run_too_short_for_advice_still_has_a_curve_of_its_steps(tmp_path):
    write_run(tmp_path, stream(steady(120)))
    advice = RunView(tmp_path).advice()
    assert advice["refused"]
    assert advice["curve"]


def test_of_very_many_events_the_worst_are_given_in_order(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    found = [Event(step=s, kind="spike", severity="info", message="") for s in range(MOST_EVENTS + 50)]
    found[1040] = Event(step=1040, kind="explosion", severity="critical", message="")
    writer.append(stream([1.0] * 3), found)
    writer.end_attempt("closed")
    overview = RunView(tmp_path).overview()
    steps = [event["step"] for event in overview["events"]]
    assert (len(steps), overview["events_hidden"]) == (MOST_EVENTS, 50)
    assert 1040 in steps
    assert steps == sorted(steps)


def test_what_a_view_refuses(tmp_path):
    write_run(tmp_path / "run", stream(steady(50)))
    with pytest.raises(BadArgument, match="stat is 'loss'"):
        RunView(tmp_path / "run").tile("loss", 0, 1, 1)
    with pytest.raises(BadArgument, match="optimizer is 'x'"):
        RunView(tmp_path / "run", "x")
    written(tmp_path / "empty", [])
    with pytest.raises(EmptyRun):
        RunView(tmp_path / "empty")


# ----------------------------------------------------------------------------------------- pack


def unpacked(data):
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    assert (4 + length) % 8 == 0
    arrays = {}
    for name, kind, shape, offset in header["arrays"]:
        assert offset % 8 == 0
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, kind, size, 4 + length + offset).reshape(shape)
    return header["about"], arrays


@given(st.lists(st.integers(0, 40), max_size=4), st.text(max_size=20))
def test_what_was_packed_can_be_unpacked(sizes, text):
    arrays = {f"a{i}": np.arange(size, dtype=[np.float32, np.int64][i % 2]) for i, size in enumerate(sizes)}
    about, found = unpacked(pack({"text": text}, arrays))
    assert about == {"text": text}
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in arrays.items()}


@given(st.floats(2.0**-120, 2.0**127, width=32))
def test_halving_keeps_a_value_to_a_quarter_percent(value):
    back = (halved(np.float32([value])).astype(np.uint32) << 16).view(np.float32)[0]
    assert back == pytest.approx(value, rel=0.004)


def test_halving_keeps_what_stands_for_no_number():
    codes = halved(np.float32([ABSENT, 0.0, NOT_FINITE, 1.0]))
    assert (codes.astype(np.uint32) << 16).view(np.float32).tolist() == [ABSENT, 0.0, NOT_FINITE, 1.0]


def test_planes_are_the_same_bytes_in_another_order():
    codes = np.arange(600, dtype=np.uint16).reshape(20, 30)
    data = in_planes(codes).tobytes()
    high, low = (np.frombuffer(part, np.uint8).astype(int) for part in (data[:600], data[600:]))
    assert (256 * high + low).tolist() == list(range(600))


# ---------------------------------------------------------------------------------------- files


def test_the_page_joins_to_one_script_without_imports():
    script = joined()
    lines = script.splitlines()
    assert not [line for line in lines if line.startswith(("import ", "export "))]
    assert "Leon Sorokin" in script, "the notice of uPlot's licence stays with it"
    assert "</script" not in script.lower()
    assert "import.meta" not in script


def test_the_files_of_the_page_refer_to_nothing_outside():
    for name, data in files().items():
        text = data.decode()
        outside = [word for word in ("http://", "https://", "//cdn") if word in text]
        if name.startswith("vendor/"):
            continue  # addresses in comments only
        assert outside == [], name
