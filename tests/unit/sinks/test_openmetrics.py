"""The file of OpenMetrics has the numbers of the last step, whatever they are."""

import math
import re
from collections import Counter

import pytest

from gradwatch.export.trackers import send_run
from gradwatch.record import Event
from gradwatch.sinks.openmetrics import OpenMetricsFile, exposition
from gradwatch.sinks.targets import parse_target
from gradwatch.sinks.tracker import RunFacts
from gradwatch.testing import stream

from .support import STEPS


def samples(text):
    """The samples of an exposition by name and labels (OpenMetrics 1.0, sections 4 and 5)."""
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    pattern = r'(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (NaN|[+-]Inf|[-\d.e+]+)'
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(pattern, line).groups()
            found[name, tuple(re.findall(r'\w+="((?:[^"\\]|\\.)*)"', labels))] = float(value.replace("Inf", "inf"))
    return found


def test_the_metrics_file_has_the_numbers_of_the_last_step(run, tmp_path):
    file = tmp_path / "metrics" / "run.prom"
    send_run(run, parse_target(f"openmetrics:{file}"))
    found, last = samples(file.read_text()), run.steps().iloc[-1]
    key = ("the-run", "0")
    assert found["gradwatch_step", key] == STEPS - 1
    assert found["gradwatch_last_step_timestamp_seconds", key] == pytest.approx(last["wall_time"])
    assert math.isnan(found["gradwatch_total_norm", key])
    assert found["gradwatch_loss", key] == last["loss"]
    assert found["gradwatch_max_norm", key] == 1.5
    assert found["gradwatch_running", ("the-run",)] == 0
    counted = {name[1][1:]: value for name, value in found.items() if name[0] == "gradwatch_events_total"}
    assert sum(counted.values()) == len(run.events())
    assert [file.name for file in file.parent.iterdir()] == ["run.prom"]


def test_the_metrics_file_is_there_at_once_and_says_that_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.sinks.openmetrics.EVERY", 0.0)
    tracker = OpenMetricsFile(tmp_path / "x.prom")
    tracker.open(RunFacts(path=tmp_path / 'a "quoted"\\ run'))
    assert samples((tmp_path / "x.prom").read_text()) == {("gradwatch_running", (r"a \"quoted\"\\ run",)): 1}
    for record in stream([1.0, 5.0, 2.0]):
        tracker.show(record)
    tracker.rest()
    found = samples((tmp_path / "x.prom").read_text())
    assert [found[f"gradwatch_{name}", (r"a \"quoted\"\\ run", "0")] for name in ("total_norm", "total_norm_max")] == [
        2,
        5,
    ]


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-300, 1.7976931348623157e308, math.inf, -math.inf, math.nan])
def test_every_number_is_read_back_as_it_was(value):
    text = exposition("a", {"0": {"loss": value}}, Counter(), running=True)
    found = samples(text)["gradwatch_loss", ("a", "0")]
    assert found == value or (math.isnan(found) and math.isnan(value))


@pytest.mark.parametrize(
    ("norms", "peak"),
    [([1.0, 5.0, 2.0], 5.0), ([math.inf, 1.0], math.inf), ([1.0, math.nan, 9.0], math.nan), ([0.0], 0.0)],
)
def test_the_largest_norm_is_that_since_the_last_write_and_nan_is_never_lost(tmp_path, monkeypatch, norms, peak):
    monkeypatch.setattr("gradwatch.sinks.openmetrics.EVERY", 0.0)
    file = tmp_path / "x.prom"
    tracker = OpenMetricsFile(file)
    tracker.open(RunFacts(path=tmp_path / "a"))
    for record in stream(norms):
        tracker.show(record)
    tracker.rest()
    found = samples(file.read_text())["gradwatch_total_norm_max", ("a", "0")]
    assert found == peak or (math.isnan(found) and math.isnan(peak))
    for record in stream([0.5]):
        tracker.show(record)
    tracker.rest()
    assert samples(file.read_text())["gradwatch_total_norm_max", ("a", "0")] == 0.5


def test_an_event_that_is_told_again_is_counted_once(tmp_path):
    tracker = OpenMetricsFile(tmp_path / "x.prom")
    tracker.open(RunFacts(path=tmp_path / "a"))
    for step in (3, 3, 4):
        tracker.tell(Event(step=step, kind="spike", severity="warning", message=""))
    tracker.close({})
    found = samples((tmp_path / "x.prom").read_text())
    assert found["gradwatch_events_total", ("a", "spike", "warning")] == 2


def test_the_file_is_not_written_again_before_its_time(tmp_path):
    file = tmp_path / "x.prom"
    tracker = OpenMetricsFile(file)
    tracker.open(RunFacts(path=tmp_path / "a"))
    before = file.read_text()
    for record in stream([1.0]):
        tracker.show(record)
    tracker.rest()
    assert file.read_text() == before
    tracker.close({})
    assert samples(file.read_text())["gradwatch_total_norm", ("a", "0")] == 1.0
