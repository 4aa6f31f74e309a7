"""Back-offs of a gradient scaler."""

from gradwatch.detect import LossScale, NonFinite
from gradwatch.testing import stream

from .streams import NAN, backed_off, found, layered


def test_a_scaler_that_backs_off_is_noted_once_and_a_streak_is_a_warning():
    records = backed_off(stream([1.0] * 200), {5, 7, 100})
    assert found(LossScale(), records) == [(5, "loss-scale", "info"), (100, "loss-scale", "info")]
    records = backed_off(stream([1.0] * 200), set(range(50, 70)))
    assert found(LossScale(), records) == [(50, "loss-scale", "info"), (57, "loss-scale", "warning")]


def test_a_scaler_that_skips_a_step_whose_loss_is_lost_is_no_overflow():
    record = layered(5, [NAN, NAN], [1, 1], loss=NAN, skipped=True, loss_scale=1024.0)
    assert LossScale().update(record) == []
    (event,) = NonFinite().update(record)
    assert event.severity == "warning"
