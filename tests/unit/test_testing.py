"""What gradwatch offers to tests of others: streams, runs, and the contract of detectors."""

import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.detect import Spike
from gradwatch.record import Event, ParameterInfo
from gradwatch.testing import check_detector, replaced, steady, stream, write_run


def test_steady_norms_are_lognormal_about_their_level():
    logs = np.log(steady(20_000, level=3.0, spread=0.2))
    assert logs.mean() == pytest.approx(math.log(3.0), abs=0.01)
    assert logs.std() == pytest.approx(0.2, rel=0.02)
    assert steady(5) == steady(5) != steady(5, seed=1)
    assert steady(0) == []
    assert steady(3, spread=0.0) == [1.0] * 3


def test_some_norms_are_replaced_and_the_list_stays_as_it_was():
    norms = [1.0, 2.0]
    assert replaced(norms, {0: math.inf, 7: 9.0}) == [math.inf, 2.0]
    assert norms == [1.0, 2.0]


def test_a_stream_has_the_norms_it_was_given():
    records = stream([5.0, 0.0, 1e30], losses=[1.0, None, 2.0], max_norm=2.0, first_step=7, attempt=1)
    assert [record.step for record in records] == [7, 8, 9]
    assert [record.attempt for record in records] == [1, 1, 1]
    assert [record.loss for record in records] == [1.0, None, 2.0]
    for record in records:
        assert float(np.linalg.norm(record.layers.norm.astype(float))) == pytest.approx(record.total_norm, rel=1e-6)
        assert record.clip_coef == pytest.approx(min(1.0, 2.0 / (record.total_norm + 1e-6)))
    assert stream([]) == []


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_has_entries_that_are_not(norm):
    (record,) = stream([norm])
    assert record.nonfinite == 2
    assert record.layers.nonfinite.tolist() == [1, 1]
    assert not np.isfinite(record.layers.norm).any()


def test_parameters_and_their_shares_can_be_chosen():
    infos = [ParameterInfo(name="only", shape=(7,))]
    (record,) = stream([2.0], parameters=infos, shares=[1.0])
    assert record.layers.parameters == tuple(infos)
    assert record.layers.norm.tolist() == [2.0]


def test_a_run_holds_the_records_and_the_events_of_its_detectors(tmp_path):
    records = stream(replaced(steady(300), {200: 60.0}))
    run = Run(write_run(tmp_path / "run", records, "AdamW", {"lr": 0.5}))
    assert run.steps()["total_norm"].tolist() == [record.total_norm for record in records]
    assert [event.step for event in run.events() if event.kind == "spike"] == [200]
    assert (run.optimizers, run.settings("0")) == ({"0": "AdamW"}, {"lr": 0.5})


def test_records_of_several_attempts_are_several_attempts(tmp_path):
    records = stream([1.0] * 3) + stream([1.0] * 2, attempt=1, first_step=2)
    run = Run(write_run(tmp_path, records))
    assert len(run.attempts()) == 2
    assert run.steps()["attempt"].to_dict() == {0: 0, 1: 0, 2: 1, 3: 1}, "of a step made again the later attempt stands"


def test_a_run_without_a_step_can_be_written(tmp_path):
    assert Run(write_run(tmp_path, [])).steps().empty


class Detector:
    """Raises an event at steps that a rule picks; whether it is allowed to depends on the rule."""

    def __init__(self, rule):
        self.rule = rule

    def update(self, record):
        return [Event(step=record.step, kind="spike", severity="info", message="m")] if self.rule(record) else []


def test_a_detector_that_keeps_the_contract_passes():
    found = check_detector(Spike, stream(replaced(steady(400), {300: 60.0})))
    assert {event.step for event in found} == {300}
    assert check_detector(lambda: Detector(lambda record: record.step == 3), stream([1.0] * 9))
    assert check_detector(Spike, []) == []


def test_one_that_depends_on_the_scale_does_not():
    with pytest.raises(AssertionError, match="norms times"):
        check_detector(lambda: Detector(lambda record: record.total_norm > 1), stream(steady(50)))


def test_one_that_remembers_earlier_streams_does_not():
    seen = []

    def rule(record):
        seen.append(record)
        return len(seen) == 5

    with pytest.raises(AssertionError, match="a fresh detector finds other events"):
        check_detector(lambda: Detector(rule), stream(steady(50)))
