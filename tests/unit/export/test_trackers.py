"""A recorded run is sent as if it had been recorded with the tracker; faults are one clear error."""

import math
from dataclasses import replace

import pytest

from gradwatch.analysis.run import Run
from gradwatch.errors import CannotExport
from gradwatch.export.trackers import closing_of_run, send_run
from gradwatch.sinks.series import WindowTracker
from gradwatch.sinks.targets import parse_target
from gradwatch.sources import read, write
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

STEPS = 300


@pytest.fixture
def run(tmp_path):
    """A run whose last step is not finite."""
    norms = replaced(steady(STEPS), {150: 60.0, STEPS - 1: math.nan})
    return Run(write_run(tmp_path / "the-run", stream(norms, max_norm=1.5), "AdamW", {"lr": 0.1}))


def test_a_tracker_that_fails_is_one_clear_error(run, tmp_path, command):
    (tmp_path / "file").write_text("x")
    done = command("export", run.path, "--to", f"openmetrics:{tmp_path / 'file' / 'x.prom'}")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: openmetrics failed with NotADirectoryError after 0 steps. (cannot-export)\n" or (
        "(cannot-export)" in done.err
    )
    with pytest.raises(CannotExport):
        send_run(run, parse_target(f"openmetrics:{tmp_path / 'file' / 'x.prom'}"))


def test_export_says_how_much_it_sent_and_a_wrong_target_is_refused(run, tmp_path, command):
    done = command("export", run.path, "--to", f"openmetrics:{tmp_path / 'x.prom'}")
    assert (done.code, done.out) == (0, "sent 300 steps to openmetrics\n")
    assert "(bad-argument)" in command("export", run.path, "--to", "nowhere").err
    assert "(bad-argument)" in command("export", run.path).err


def test_a_run_without_a_step_can_be_sent(tmp_path):
    empty = Run(write_run(tmp_path / "empty", []))
    assert send_run(empty, parse_target(f"openmetrics:{tmp_path / 'x.prom'}")) == 0
    assert closing_of_run(empty) == {"steps": 0}


class Listener:
    """Keeps what it is given."""

    label = "listener"

    def __init__(self, wants_layers):
        self.wants_layers, self.records, self.told = wants_layers, [], []

    def open(self, facts):
        self.facts = facts

    def show(self, record):
        self.records.append(record)

    def tell(self, event):
        self.told.append(event.key)

    def close(self, closing):
        self.closing = closing


@pytest.mark.parametrize("wants_layers", [False, True])
def test_records_events_and_the_verdict_are_those_of_the_run(run, wants_layers):
    listener = Listener(wants_layers)
    assert send_run(run, listener) == STEPS
    assert [record.step for record in listener.records] == run.steps().index.tolist()
    assert math.isnan(listener.records[-1].total_norm)
    assert all((record.layers is not None) == wants_layers for record in listener.records)
    assert listener.told == [event.key for event in run.events()]
    summary = run.summary()
    assert listener.closing["verdict"] == summary.verdict
    assert listener.closing["share_clipped"] == summary.clipping.clipped_fraction
    assert listener.closing["nonfinite_steps"] == 1


def test_records_of_several_optimizers_come_in_the_order_of_time(tmp_path):
    (one,) = stream([1.0])
    records = [replace(one, optimizer="a", wall_time=2.0), replace(one, optimizer="b", wall_time=1.0)]
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"a": ("SGD", {}), "b": ("SGD", {})})
    writer.append(records)
    writer.end_attempt("closed")
    run = Run(tmp_path / "run")
    listener = Listener(False)
    assert send_run(run, listener) == 2
    assert listener.facts.several
    assert [(record.optimizer, record.wall_time) for record in listener.records] == [("b", 1.0), ("a", 2.0)]


class Sends(WindowTracker):
    """Keeps the names that W&B, MLflow and trackio would get."""

    label = "sends"

    def __init__(self):
        super().__init__()
        self.sent = set()

    def send(self, point):
        self.sent |= {name.removeprefix("gradwatch/") for name in self.names(point)}


def test_a_tracker_gets_no_clipping_that_an_imported_history_does_not_tell(run, tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,grad_norm\n1,2.0,1.0\n2,1.5,2.0\n3,1.0,1.0\n")
    imported = Run(write(read([tmp_path / "log.csv"]), tmp_path / "imported").run)
    told = []
    for one in (run, imported):
        sends, file = Sends(), tmp_path / f"{one.path.name}.prom"
        send_run(one, sends)
        send_run(one, parse_target(f"openmetrics:{file}"))
        told.append(
            (sends.sent, "gradwatch_clip_coef{" in file.read_text(), "gradwatch_total_norm{" in file.read_text())
        )
    assert told[0][0] >= {"clip_coef", "clipped_fraction", "total_norm"}
    assert told[0][1:] == (True, True)
    assert told[1] == ({"total_norm", "total_norm_max", "nonfinite", "loss"}, False, True)


def test_event_files_as_a_tracker_get_none_either(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "log.csv").write_text("step,loss,grad_norm\n1,2.0,1.0\n2,1.5,2.0\n3,1.0,1.0\n")
    imported = Run(write(read([tmp_path / "log.csv"]), tmp_path / "imported").run)
    send_run(imported, parse_target(f"tensorboard:{tmp_path / 'events'}"))
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    tags = {tag.removeprefix("gradwatch/") for tag in found.Tags()["scalars"]}
    assert tags == {"total_norm", "total_norm_max", "nonfinite", "loss"}


def test_the_message_of_a_fault_is_not_shown_and_its_count_is(run):
    class Fails(Listener):
        def show(self, record):
            if record.step == 7:
                raise ValueError("https://user:secret@example.org")

    with pytest.raises(CannotExport, match="listener failed with ValueError after 7 steps") as found:
        send_run(run, Fails(False))
    assert "secret" not in str(found.value)
