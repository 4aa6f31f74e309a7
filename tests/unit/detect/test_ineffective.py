"""Clipping that does not do what it says."""

import dataclasses
import re

import pytest

from gradwatch.detect import IneffectiveClipping
from gradwatch.record import CLIP_FAULTS
from gradwatch.testing import check_detector, stream

from .streams import found


def test_a_fault_of_clipping_is_one_event_until_it_has_been_away():
    faults = ["after-step"] * 200 + [None] * 100 + ["after-step"] * 200 + [None] * 301 + ["after-step"] * 3
    records = [dataclasses.replace(r, clip_fault=f) for r, f in zip(stream([1.0] * len(faults)), faults, strict=True)]
    kind = "ineffective-clipping"
    assert found(IneffectiveClipping(), records) == [(0, kind, "warning"), (801, kind, "warning")]
    check_detector(IneffectiveClipping, records)


@pytest.mark.parametrize("fault", CLIP_FAULTS)
def test_every_fault_is_told(fault):
    record = dataclasses.replace(stream([2.0])[0], clip_fault=fault, loss_scale=1024.0, max_norm=1e-3)
    (event,) = IneffectiveClipping().update(record)
    assert event.severity == ("info" if fault in ("micro-batch", "part") else "warning")
    assert re.match("clipping was|the clipped parameters", event.message)
    if fault == "before-unscale":
        assert "loss scale 1024" in event.message
        assert "0.001" in event.message
