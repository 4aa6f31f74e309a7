"""A state is given back as it was, or refused; tests/unit/detect/test_state.py goes on from it."""

import numpy as np
import pytest

from gradwatch.detect import detectors_for
from gradwatch.detect.level import Window
from gradwatch.detect.restoring import StateMismatch, load
from gradwatch.detect.state import dump
from gradwatch.testing import steady, stream


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: b"",
        lambda state: b"\x80\x04pickle",
        lambda state: b"[]\n",
        lambda state: b'{"detectors": [], "parameters": []}\n',
        lambda state: state[: len(state) // 2],
        lambda state: state.replace(b'"_', b'"_x', 1),
        lambda state: state.replace(b"LossScale", b"Spike", 1),
        lambda state: state.replace(b'["level","Level"]', b'["optimizers","eps_of"]', 1).replace(
            b'"Level"', b'"nothing"', 1
        ),
        lambda state: b"[" * 100_000,
    ],
)
def test_what_is_no_state_of_these_detectors_is_refused(spoil):
    detectors = detectors_for()
    for record in stream(steady(200)):
        for detector in detectors:
            detector.update(record)
    fresh = detectors_for()
    with pytest.raises(StateMismatch):
        load(fresh, spoil(dump(detectors)))
    assert dump(fresh) == dump(detectors_for()), "they stay as they were"


def test_what_two_attributes_share_stays_shared():
    class Holder:
        def __init__(self):
            self.first = self.second = Window(3)
            self.array = self.same_array = np.zeros(2)

    state = dump([Holder()])
    restored = Holder()
    restored.second, restored.same_array = Window(3), np.ones(2)
    load([restored], state)
    assert restored.first is restored.second
    assert restored.array is restored.same_array
