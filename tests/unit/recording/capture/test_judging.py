"""A step is judged by the norm that it has without its loss scale."""

import math

import pytest
import torch

from gradwatch.measure import measure
from gradwatch.recording.capture.judging import StepJudge

from .support import Heard

ALL = ("spike", "explosion", "nonfinite")
CALM = 40


def measured(*values):
    return measure([torch.tensor(values)], ("norm",))


def calm(on=ALL):
    """A judge that has seen norms of 5."""
    judge, ledger = StepJudge(on), Heard().ledger
    assert [judge.judge(ledger, measured(3.0, 4.0)) for _ in range(CALM)] == [None] * CALM
    return judge, ledger


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((30.0, 40.0), "spike"),
        ((3e4, 4e4), "explosion"),
        ((1.0, math.nan), "nonfinite"),
        ((math.inf, 1.0), "nonfinite"),
        ((0.0, 0.0), None),
        ((6.0, 8.0), None),
    ],
)
def test_a_step_has_its_norm_its_limit_and_the_reason(values, why):
    judge, ledger = calm()
    found = judge.judge(ledger, measured(*values))
    if why is None:
        assert found is None
        return
    norm = float(torch.linalg.vector_norm(torch.tensor(values, dtype=torch.float64)))
    assert (found.why, found.loss_scale, found.is_unscaled) == (why, None, True)
    assert found.total_norm == pytest.approx(norm, nan_ok=True)
    assert 5.0 < found.limit < 50.0


def test_a_reason_that_is_not_asked_for_is_no_reason():
    judge, ledger = calm(on=("nonfinite",))
    assert judge.judge(ledger, measured(30.0, 40.0)) is None
    assert judge.judge(ledger, measured(math.nan, 0.0)).why == "nonfinite"


def test_each_judged_step_has_a_name_of_its_own():
    judge, ledger = StepJudge(ALL), Heard().ledger
    names = set()
    for _ in range(3):
        judge.judge(ledger, measured(1.0, 1.0))
        names.add(ledger.moment)
    assert len(names) == 3


def test_a_scaled_gradient_is_judged_without_its_scale():
    judge, ledger = calm()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    optimizer._step_supports_amp_scaling = True  # as fused optimizers have it
    judge.note_scaled_step(ledger, optimizer, torch.tensor(1024.0))
    assert judge.judge(ledger, measured(3 * 1024.0, 4 * 1024.0)) is None
    found = judge.judge(ledger, measured(30 * 1024.0, 40 * 1024.0))
    assert (found.total_norm, found.loss_scale, found.is_unscaled) == (pytest.approx(50.0), 1024.0, False)


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_an_unscaled_gradient_is_judged_as_it_is(is_forgotten):
    judge, ledger = calm()
    judge.note_unscaled(ledger, torch.tensor(1024.0))
    judge.note_scaled_step(ledger, torch.optim.SGD([torch.zeros(1)], lr=0.1), torch.tensor(1024.0))
    if is_forgotten:
        judge.forget_scale(ledger)
    found = judge.judge(ledger, measured(30.0, 40.0))
    assert (found.total_norm, found.is_unscaled) == (pytest.approx(50.0), True)
    assert found.loss_scale == (None if is_forgotten else 1024.0)


@pytest.mark.parametrize(
    ("scale", "loss", "is_kept"),
    [(1024.0, 1.0, False), (1024.0, math.nan, True), (1024.0, math.inf, True), (1.0, 1.0, True), (0.5, 1.0, True)],
)
def test_an_overflow_is_the_scalers_unless_the_loss_is_bad_or_the_scale_small(scale, loss, is_kept):
    judge, ledger = StepJudge(ALL), Heard().ledger
    judge.note_roots([torch.tensor(loss), torch.full((2,), math.nan)])  # only what has one entry is a loss
    judge.note_unscaled(ledger, torch.tensor(scale))
    assert (judge.judge(ledger, measured(math.inf, 1.0)) is not None) is is_kept
