"""Updates of sentinels in a store: as they were written, or left out and counted."""

import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import BadArgument
from gradwatch.record import LayerStats, ParameterInfo, SentinelStats, StepRecord, UpdateStats
from gradwatch.store import StoreWriter

from .handmade import change, copied, forge

INFOS = tuple(ParameterInfo(name=name, shape=(2, 3)) for name in "abcd")


def floats(*values):
    return np.array(values, np.float32)


def record_of(step, attempt):
    """Every third step has all updates; the others have those of a and d, from step 5 on also that of c."""
    at = floats(0, 3) if step < 5 else floats(0, 2, 3)
    every = UpdateStats(update_norm=floats(*range(4)) + step, weight_norm=floats(1, 2, 0, 4))
    few = SentinelStats(position=at, update_norm=at + step + 100 * attempt, weight_norm=floats(*[2] * len(at)))
    return StepRecord(
        step=step,
        attempt=attempt,
        total_norm=1.0,
        layers=LayerStats(parameters=INFOS, norm=floats(1, 1, 1, 1)),
        updates=every if step % 3 == 0 else None,
        sentinels=None if step % 3 == 0 else few,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Nine steps, of which those from 7 on were made again by a second attempt."""
    folder = tmp_path_factory.mktemp("sentinels") / "run"
    for attempt, steps in enumerate((range(9), range(7, 9))):
        writer = StoreWriter(folder)
        writer.begin_attempt({}, {"0": ("SGD", {})})
        writer.add_parameters("0", INFOS)
        writer.append([record_of(step, attempt) for step in steps])
        writer.end_attempt("closed")
    return folder


def test_the_updates_are_those_written_by_the_attempt_that_stands(run):
    reader = Run(run)
    found = reader.sentinels("update_norm")
    assert found.columns.tolist() == ["a", "c", "d"]
    assert found["a"].tolist() == [0, 1, 2, 3, 4, 5, 6, 107, 108]
    assert found["d"].tolist() == [3, 4, 5, 6, 7, 8, 9, 110, 111]
    np.testing.assert_equal(found["c"].tolist(), [2, math.nan, math.nan, 5, math.nan, 7, 8, 109, 110])
    np.testing.assert_equal(reader.sentinels("update_ratio")["c"].tolist()[:4], [math.nan] * 4)  # weights of 0
    assert reader.sentinels("rms_ratio").isna().all().all()
    assert reader.damaged_rows == 0


def test_a_statistic_that_there_is_not_is_refused(run):
    with pytest.raises(BadArgument, match="expected one of update_norm, weight_norm"):
        Run(run).sentinels("norm")


@pytest.mark.parametrize(
    "statement", ["update sentinel set position = x'0000803f' where id = 2", "delete from sentinel where id = 2"]
)
def test_a_row_that_was_changed_or_lost_is_left_out_and_counted(run, tmp_path, statement):
    change(copied(run, tmp_path / "copy"), statement)
    reader = Run(tmp_path / "copy")
    assert 1 not in reader.sentinels("update_norm").index
    assert reader.damaged_rows >= 1


@pytest.mark.parametrize(
    "position",
    [
        (0, 9),  # a parameter that there is not
        (0, -1),
        (0, 0.5),
        (math.nan, 3),
        (0, math.inf),
        (3, 0),  # not ascending
        (0, 0),
        (0,),  # of fewer than there are updates
        (),
    ],
)
def test_positions_that_gradwatch_does_not_write_are_left_out_though_their_checksums_are_right(run, tmp_path, position):
    forge(copied(run, tmp_path / "copy"), "update sentinel set position = ? where id = 2", floats(*position).tobytes())
    reader = Run(tmp_path / "copy")
    assert 1 not in reader.sentinels("update_norm").index or (position[:1] == (0,) and len(position) < 2)
    assert [record.step for record in reader.records()] == [0, *range(2, 9), 7, 8]
    assert reader.damaged_rows > 0
