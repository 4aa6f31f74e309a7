"""A view of a run answers as the summary does, as of its last refresh."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.differences import differences
from gradwatch.analysis.replays.result import Replay, write_replay
from gradwatch.analysis.summary import summarize
from gradwatch.errors import BadArgument, EmptyRun
from gradwatch.record import MAGNITUDE_BINS, Event, MagnitudeStats
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.parting import sentences
from gradwatch.views.web.view import MAX_EVENTS, RunView

from .makers import record, written


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
    assert list(layers["telling"]) == list(summary.most_relevant)
    assert layers["stats"] == ["norm", "abs_max", "zeros", "nonfinite", "update_ratio", "weight_norm"]
    assert summarize(run, layers=False).series.layer_norm.shape == (600, 0)


def test_entries_by_magnitude_are_those_of_the_run(tmp_path):
    counts = np.zeros((3, len(MAGNITUDE_BINS)))
    counts[:, 20] = [1, 2, 3]

    def counted(step):
        magnitudes = MagnitudeStats.of(counts * (step + 1)) if step % 5 == 0 else None
        return replace(record(step, [1.0, 2.0, 3.0]), loss_scale=1024.0, magnitudes=magnitudes)

    run = written(tmp_path, [counted(step) for step in range(100)])
    view = RunView(tmp_path)
    assert view.layers()["magnitudes"] is True
    about, arrays = view.magnitudes([1, 0], 10, 60, 400)
    assert about == {"bins": MAGNITUDE_BINS, "layers": [1, 0], "counted": 11}
    assert arrays["step"].tolist() == list(range(10, 61, 5))
    assert arrays["counts"][:, :, 20].tolist() == [[2.0 * (s + 1), s + 1.0] for s in range(10, 61, 5)]
    assert set(arrays["loss_scale"].tolist()) == {1024.0}
    few = view.magnitudes([0], 0, 99, 3)
    assert (few[0]["counted"], few[1]["step"].tolist()) == (20, [0, 50, 95])
    between = view.magnitudes([0], 61.5, 64.5, 400)
    assert (between[0]["counted"], between[1]["step"].tolist()) == (1, [60]), "a sample holds until the next one"
    assert view.magnitudes([0], 62, 70, 400)[1]["step"].tolist() == [60, 65, 70]
    assert len(view.magnitudes([0], -9, -1, 400)[1]["step"]) == 0
    with pytest.raises(BadArgument, match="expected some of"):
        view.magnitudes([99], 0, 99, 3)
    summary = run.summary()
    assert summary.magnitudes.names == (f"layers.{summary.most_relevant[0]}.weight",)
    assert len(summary.magnitudes.step) == 20
    shutil.rmtree(tmp_path)
    assert summary.magnitudes is None


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


def test_a_replay_made_while_the_run_is_shown_is_seen(tmp_path):
    write_run(tmp_path, stream(replaced(steady(50), {40: 1e6})))
    view = RunView(tmp_path)
    assert "replay" not in view.overview()["events"][0]
    capture = tmp_path / "captures" / "step-000040"
    capture.mkdir(parents=True)
    for recurs, told in (("no", "no:"), ("bitwise", "yes, bit for bit")):
        write_replay(Replay(run="a", step=40, optimizer="0", why="spike", recurs=recurs), capture)
        view.refresh()
        answers = dict(view.overview()["events"][0]["replay"]["answers"])
        assert answers["happens again"].startswith(told)


def test_a_run_that_nobody_wrote_to_is_not_read_again(tmp_path, monkeypatch):
    write_run(tmp_path, stream(steady(50)))
    view = RunView(tmp_path)
    monkeypatch.setattr("gradwatch.views.web.view.Run", None)  # whoever opens the run now fails
    view.refresh()
    assert view.overview()["steps"] == 50


def test_the_distribution_is_of_the_steps_asked_for_in_spans(tmp_path):
    run = Run(write_run(tmp_path, stream(replaced(steady(600), {400: 80.0}))))
    about, arrays = RunView(tmp_path).distribution(300, 499, 4)
    assert arrays["first"].tolist() == [300, 350, 400, 450]
    assert arrays["counts"].sum() == 200
    largest = run.steps("0").loc[400, "total_norm"]
    assert arrays["norms"][-1] == pytest.approx(largest, rel=about["accuracy"])
    assert arrays["counts"][:, -1].tolist() == [0, 0, 1, 0]


def test_the_scatter_is_of_the_steps_asked_for(tmp_path):
    run = Run(write_run(tmp_path, stream(replaced(steady(6000), {4321: 80.0}), max_norm=1.0)))
    about, arrays = RunView(tmp_path).scatter(1000, 4999, 300, 1)
    assert arrays["steps"].tolist() == [4000]
    assert 200 < len(arrays["step"]) <= 300
    assert (arrays["step"].min(), arrays["step"].max()) == (1000, 4999)
    norms = arrays["values"][:, about["quantities"].index("total_norm")]
    assert norms.tolist() == run.steps("0").loc[arrays["step"], "total_norm"].tolist()
    assert arrays["step"][norms.argmax()] == 4321


def test_the_rows_of_a_few_parameters_are_those_of_the_tiles(tmp_path):
    write_run(tmp_path, stream(replaced(steady(600), {400: 80.0})))
    view = RunView(tmp_path)
    for columns in (100, 1000):
        about, arrays = view.rows([1], 100, 499, columns)
        for stat in view.layers()["stats"]:
            told, tile = view.tile(stat, 100, 499, columns)
            assert about["joined"][stat] == told["joined"]
            assert arrays[f"{stat}.first"].tolist() == tile["first"].tolist()
            assert arrays[f"{stat}.values"].tolist() == tile["values"][:, [1]].tolist()
        assert ("norm_share" in about["joined"]) == (columns == 1000), "of single steps alone"
    both = view.rows([1, 0], 100, 499, 1000)[1]
    assert both["norm_share.values"].sum(axis=1) == pytest.approx(np.ones(400), rel=1e-5)
    assert both["norm_share.values"][:, 0].tolist() == arrays["norm_share.values"][:, 0].tolist()


def test_where_two_runs_part_is_what_compare_says(tmp_path):
    write_run(tmp_path / "a", stream(steady(200)))
    write_run(tmp_path / "b", stream(replaced(steady(200), {120: 80.0})))
    first, second = RunView(tmp_path / "a"), RunView(tmp_path / "b")
    (found,) = differences(Run(tmp_path / "a"), Run(tmp_path / "b"))
    told = first.parting(second, ("x/a", "x/b"))
    assert (told["step"], told["parameter"]) == (120, found.parameters[0])
    assert told["said"] == sentences(found, "x/a", "x/b")
    assert first.parting(first, ("a", "a"))["step"] is None
    written(tmp_path / "c", [record(0, [1.0] * 3, optimizer="g")], optimizers=("g",))
    other = first.parting(RunView(tmp_path / "c"), ("a", "c"))
    assert (other["step"], other["said"]) == (None, ["c has no optimizer 0: nothing to compare"])


@pytest.mark.parametrize("parameters", [[2], [-1], [0] * 7])
def test_parameters_that_do_not_exist_have_no_rows(tmp_path, parameters):
    write_run(tmp_path, stream(steady(60)))
    with pytest.raises(BadArgument, match="expected at most 6 of 2"):
        RunView(tmp_path).rows(parameters, 0, 59, 100)


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
    found = [Event(step=s, kind="spike", severity="info", message="") for s in range(MAX_EVENTS + 50)]
    found[1040] = Event(step=1040, kind="explosion", severity="critical", message="")
    writer.append(stream([1.0] * 3), found)
    writer.end_attempt("closed")
    overview = RunView(tmp_path).overview()
    steps = [event["step"] for event in overview["events"]]
    assert (len(steps), overview["events_hidden"]) == (MAX_EVENTS, 50)
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


def test_a_run_that_was_deleted_and_trained_again_shows_nothing_of_the_old_one(tmp_path):
    """The same name, parameters and row ids, another store: its layers had been those of the old run."""
    written(tmp_path / "run", [record(s, [100.0, 1.0, 1.0]) for s in range(300)])
    view = RunView(tmp_path / "run")
    assert view.layers()["layers"][0]["max"] == 100.0
    shutil.rmtree(tmp_path / "run")
    written(tmp_path / "run", [record(s, [2.0, 1.0, 1.0]) for s in range(400)])
    view.refresh()
    assert view.layers()["layers"][0]["max"] == 2.0
    assert view.layers()["layers"][0]["median"] == 2.0
    assert view.tile("norm", 0, 1000, 10)[1]["values"].max() == 2.0
    assert len(view.tile("norm", 0, 1000, 1000)[1]["first"]) == 400


def test_a_run_that_only_grew_is_not_read_again(tmp_path):
    writer = StoreWriter(tmp_path)
    rows = stream(steady(400))
    writer.begin_attempt({}, {"0": ("SGD", {"lr": 0.1})})
    writer.add_parameters("0", rows[0].layers.parameters)
    writer.append(rows[:300])
    view = RunView(tmp_path)
    view.layers()
    before = view._histories["norm"]
    writer.append(rows[300:])
    view.refresh()
    view.layers()
    assert view._histories["norm"] is before
    writer.end_attempt("closed")


def test_a_run_whose_process_is_gone_is_no_longer_running_though_its_store_is_the_same(tmp_path):
    program = (
        "import sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream, steady;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        "w.append(stream(steady(60))); print('written', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        view = RunView(tmp_path)
        assert view.overview()["running"]
        assert view.overview()["findings"] == []
        process.kill()
    view.refresh()
    overview = view.overview()
    assert (overview["running"], overview["ended"]) == (False, None)
    assert [finding["code"] for finding in overview["findings"]] == ["killed"]
