"""Options for an optimizer that joins, and where the numbers go nowhere."""

import dataclasses

import pytest

from gradwatch.recording.options import RecordingOptions

OPTIONS = RecordingOptions(every=5, weights_every=7, first_step=30, total_steps=90, stop_on=("dead",), ranks=True)


def test_an_optimizer_that_joins_begins_where_the_run_has_it():
    later = OPTIONS.for_later_optimizer()
    assert later == dataclasses.replace(OPTIONS, first_step=None)
    assert OPTIONS.first_step == 30


@pytest.mark.parametrize("is_measured", [True, False])
def test_without_a_record_every_step_is_measured_alike_or_none_is(is_measured):
    found = OPTIONS.unrecorded(is_measured=is_measured)
    assert (found.is_measured, found.every, found.weights_every) == (is_measured, 1, 0)
    assert (found.stop_on, found.ranks, found.total_steps) == (("dead",), True, 90)


def test_options_are_plain_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPTIONS.every = 2
    assert len({RecordingOptions(), RecordingOptions()}) == 1
