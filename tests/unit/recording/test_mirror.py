"""A mirror is shown every record, and its faults end the mirror alone."""

import pytest

from gradwatch.recording.mirror import GuardedMirror
from gradwatch.testing import stream


class Shown:
    def __init__(self, fail_at=None, fail_to_close=False):
        self.steps, self.closed = [], 0
        self.fail_at, self.fail_to_close = fail_at, fail_to_close

    def add(self, record):
        if record.step == self.fail_at:
            raise OSError("no space")
        self.steps.append(record.step)

    def close(self):
        self.closed += 1
        if self.fail_to_close:
            raise OSError("no space")


def test_without_a_mirror_nothing_happens():
    mirror = GuardedMirror(None)
    mirror.show(stream([1.0]))
    mirror.close()


def test_records_are_shown_in_order_and_the_mirror_is_closed_once():
    shown = Shown()
    mirror = GuardedMirror(shown)
    mirror.show(stream([1.0] * 3))
    mirror.show([])
    mirror.show(stream([1.0] * 2, first_step=3))
    mirror.close()
    mirror.close()
    assert (shown.steps, shown.closed) == ([0, 1, 2, 3, 4], 1)


def test_a_mirror_that_fails_is_shown_nothing_more_and_that_is_said_once(caplog):
    shown = Shown(fail_at=1)
    mirror = GuardedMirror(shown)
    mirror.show(stream([1.0] * 3))
    mirror.show(stream([1.0] * 3, first_step=3))
    mirror.close()
    assert (shown.steps, shown.closed) == ([0], 0)
    (said,) = caplog.records
    assert said.getMessage() == "gradwatch no longer writes event files: no space (mirror-stopped)"


def test_a_mirror_that_can_not_be_closed_is_said(caplog):
    mirror = GuardedMirror(Shown(fail_to_close=True))
    mirror.close()
    mirror.close()
    (said,) = caplog.records
    assert "could not write all event files: no space (mirror-stopped)" in said.getMessage()


def test_ctrl_c_is_no_fault_of_the_mirror():
    class Interrupted(Shown):
        def add(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GuardedMirror(Interrupted()).show(stream([1.0]))
