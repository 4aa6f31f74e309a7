"""Event files that a tracker writes hold what the store holds."""

import pytest

from gradwatch.export.trackers import send_run
from gradwatch.sinks.targets import parse_target
from gradwatch.sinks.tensorboard import TensorBoardFiles
from gradwatch.sinks.tracker import RunFacts
from gradwatch.testing import stream

from .support import assert_equal, expected


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def test_event_files_hold_what_the_mirror_writes(run, tmp_path):
    send_run(run, parse_target(f"tensorboard:{tmp_path / 'logs'}"))
    reader = read(tmp_path / "logs")
    wanted = expected(run)
    for name in ("total_norm", "loss", "clip_coef"):
        found = {point.step: point.value for point in reader.Scalars(f"gradwatch/{name}")}
        assert_equal({step: pytest.approx(value, rel=1e-6, nan_ok=True) for step, value in found.items()}, wanted[name])


def test_the_files_lie_in_the_run_unless_a_folder_is_given_and_names_tell_optimizers_apart(tmp_path):
    tracker = TensorBoardFiles()
    tracker.open(RunFacts(path=tmp_path / "run", several=True))
    for record in stream([1.0, 2.0]):
        tracker.show(record)
    tracker.close({})
    points = read(tmp_path / "run").Scalars("gradwatch/0/total_norm")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0)]


def test_one_that_was_never_opened_can_be_closed(tmp_path):
    TensorBoardFiles(tmp_path / "logs").close({})
    assert list(tmp_path.iterdir()) == []
