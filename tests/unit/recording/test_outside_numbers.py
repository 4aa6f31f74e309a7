"""Numbers that come from the script may be 0, infinite, NaN, missing or of another type: every step is recorded.

Each case trains with gradwatch and without it. The weights, and the exception where PyTorch raises one, are the same.
"""

import decimal
import fractions
import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

STEPS = 4
HUGE = 10**400  # no float64 holds it


class Signed(torch.optim.Optimizer):
    """An optimizer of the script: it takes any settings, and steps by the sign of the gradient."""

    def __init__(self, parameters, **defaults):
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(0.01 * parameter.grad.sign())


def trained(run, make, between=None, clip=None, log=None, scaler=None):
    """The weights, the exception and, where there is a run, its frame of steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = make(model.parameters())
    scaler = scaler() if scaler is not None else None
    watch = None if run is None else gradwatch.attach(model, optimizer, run)
    error = None
    try:
        for step in range(STEPS):
            if between is not None:
                between(optimizer, step)
            optimizer.zero_grad()
            loss = model(torch.ones(2, 3)).square().mean()
            (loss if scaler is None else scaler.scale(loss)).backward()
            if clip is not None:
                clip(list(model.parameters()))
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            if watch is not None and log is not None:
                watch.log(loss=log)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        if watch is not None:
            watch.close()
    return [parameter.detach().clone() for parameter in model.parameters()], error


def assert_recorded(tmp_path, caplog, **how):
    """Train with and without; return the frame of steps."""
    with caplog.at_level(logging.WARNING, logger="gradwatch"):
        expected, raised = trained(None, **how)
        weights, error = trained(tmp_path / "run", **how)
    assert error == raised
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    for slug in ("recording-stopped", "record-not-made", "steps-dropped", "detectors-stopped"):
        assert slug not in caplog.text
    if raised is None:
        steps = Run(tmp_path / "run").steps()
        assert steps.index.tolist() == list(range(STEPS))
        summary = Run(tmp_path / "run").summary()
        assert (summary.steps, summary.damaged_rows) == (STEPS, 0)
        return steps
    return None


def named(value):
    return "huge" if isinstance(value, int) and value == HUGE else repr(value)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def signed(**defaults):
    return lambda parameters: Signed(parameters, **defaults)


RATES = {
    "zero": (0.0, 0.0),
    "infinite": (math.inf, math.inf),
    "not a number": (math.nan, math.nan),
    "negative": (-1.0, -1.0),
    "whole": (1, 1.0),
    "true": (True, 1.0),
    "a tensor": (torch.tensor(0.5), 0.5),
    "a tensor of one row": (torch.tensor([0.5]), 0.5),
    "a NaN in a tensor": (torch.tensor(math.nan), math.nan),
    "half a tensor": (torch.tensor(0.5, dtype=torch.float16), 0.5),
    "of numpy": (np.float32(0.5), 0.5),
    "a fraction": (fractions.Fraction(1, 2), 0.5),
    "a decimal": (decimal.Decimal("0.5"), 0.5),
    "none": (None, math.nan),
    "a text": ("0.1", math.nan),
    "two numbers": (torch.tensor([0.5, 0.25]), math.nan),
    "no numbers": (torch.empty(0), math.nan),
    "complex": (1j, math.nan),
    "a complex tensor": (torch.tensor(1j), math.nan),
    "without values": (torch.empty((), device="meta"), math.nan),
    "huge": (HUGE, math.nan),
    "a list": ([0.1], math.nan),
}


@pytest.mark.parametrize("rate", RATES)
def test_a_learning_rate_of_any_kind(tmp_path, caplog, rate):
    value, expected = RATES[rate]

    def change(optimizer, step):
        optimizer.param_groups[0]["lr"] = value

    steps = assert_recorded(tmp_path, caplog, make=signed(lr=0.1), between=change)
    assert np.array_equal(steps["learning_rate"], [expected] * STEPS, equal_nan=True)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_pytorchs_optimizers_do_or_raise_what_they_do_without_us(tmp_path, caplog, rate, kind):
    value, _ = RATES[rate]

    def change(optimizer, step):
        optimizer.param_groups[0]["lr"] = value

    assert_recorded(tmp_path, caplog, make=lambda p: getattr(torch.optim, kind)(p, lr=0.1), between=change)


def test_groups_without_a_learning_rate(tmp_path, caplog):
    steps = assert_recorded(tmp_path, caplog, make=signed(speed=1.0))
    assert steps["learning_rate"].isna().all()


def odd_groups(parameters):
    first, *others = parameters
    odd = {7: 8, (1, 2): [3], None: None, "object": object(), "tensor": torch.ones(2), "nan": math.nan, "x": b"\0"}
    return Signed([{"params": [first], "lr": 0.5, **{str(k): v for k, v in odd.items()}}, {"params": others}], lr=None)


def test_groups_of_odd_settings(tmp_path, caplog):
    steps = assert_recorded(tmp_path, caplog, make=odd_groups)
    assert steps["learning_rate"].tolist() == [0.5] * STEPS


def with_odd_keys(parameters):
    optimizer = Signed(parameters, lr=0.5)
    for key in (7, (1, 2), None, 1.5, "lone \udc80"):
        optimizer.defaults[key] = key
        optimizer.param_groups[0][key] = key
    return optimizer


def test_settings_whose_names_are_no_texts(tmp_path, caplog):
    assert_recorded(tmp_path, caplog, make=with_odd_keys)
    assert Run(tmp_path / "run").settings()["lr"] == 0.5


@pytest.mark.parametrize(
    "value",
    [None, 0, math.inf, math.nan, -1.0, "x", HUGE, torch.tensor(1e-8), torch.ones(2), [1, {}], {"a": 1}, (None,), 1j],
    ids=named,
)
@pytest.mark.parametrize("name", ["eps", "betas", "lr"])
def test_settings_of_any_kind(tmp_path, caplog, name, value):
    assert_recorded(tmp_path, caplog, make=signed(**{name: value}))


def adam_named(parameters):
    optimizer = type("Adam", (Signed,), {})(parameters, lr=0.1, betas=None, eps=None, weight_decay="x")
    optimizer.param_groups[0]["betas"] = (math.nan,)
    return optimizer


def test_a_class_of_a_known_name_without_its_settings(tmp_path, caplog):
    assert_recorded(tmp_path, caplog, make=adam_named)


# ------------------------------------------------------------------------------- clipping

THRESHOLDS = [
    0.0,
    -0.0,
    1e-300,
    math.inf,
    -math.inf,
    math.nan,
    -1.0,
    1,
    True,
    HUGE,
    None,
    "1",
    1j,
    np.float32(0.5),
    fractions.Fraction(1, 2),
    decimal.Decimal("0.5"),
    torch.tensor(0.5),
    torch.tensor(math.nan),
    torch.tensor([0.5]),
    torch.tensor([0.5, 0.25]),
    torch.tensor(1),
    torch.empty((), device="meta"),
]


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=named)
def test_a_threshold_of_any_kind(tmp_path, caplog, threshold):
    assert_recorded(tmp_path, caplog, make=sgd, clip=lambda p: nn.utils.clip_grad_norm_(p, threshold))


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=named)
def test_a_threshold_by_value_of_any_kind(tmp_path, caplog, threshold):
    assert_recorded(tmp_path, caplog, make=sgd, clip=lambda p: nn.utils.clip_grad_value_(p, threshold))


@pytest.mark.parametrize(
    "order", [0, 1, 0.5, -1, math.inf, -math.inf, math.nan, "inf", "x", None, True, torch.tensor(2.0)], ids=repr
)
def test_a_norm_of_any_order(tmp_path, caplog, order):
    assert_recorded(tmp_path, caplog, make=sgd, clip=lambda p: nn.utils.clip_grad_norm_(p, 0.1, norm_type=order))


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=named)
@pytest.mark.parametrize("norm", [0.0, math.nan])
def test_a_norm_that_is_given(tmp_path, caplog, threshold, norm):
    def clip(parameters):
        nn.utils.clip_grads_with_norm_(parameters, threshold, torch.tensor(norm))

    assert_recorded(tmp_path, caplog, make=sgd, clip=clip)


# ------------------------------------------------------------------------------- scale, loss


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1.0, 2.0**127, math.inf, math.nan, -2.0])
@pytest.mark.parametrize("is_clipped", [False, True])
def test_a_scale_of_any_value(tmp_path, caplog, scale, is_clipped):
    assert_recorded(
        tmp_path,
        caplog,
        make=sgd,
        scaler=lambda: torch.amp.GradScaler("cpu", init_scale=scale),
        clip=(lambda p: nn.utils.clip_grad_norm_(p, 0.1)) if is_clipped else None,
    )


LOSSES = {
    "zero": (0, 0.0),
    "infinite": (math.inf, math.inf),
    "not a number": (math.nan, math.nan),
    "true": (True, 1.0),
    "of numpy": (np.float16(0.5), 0.5),
    "an array": (np.array(0.5), 0.5),
    "a fraction": (fractions.Fraction(1, 2), 0.5),
    "a decimal": (decimal.Decimal("0.5"), 0.5),
    "a decimal that signals": (decimal.Decimal("sNaN"), None),
    "a whole tensor": (torch.tensor(2), 2.0),
    "a row of one": (torch.tensor([[0.5]]), 0.5),
    "with a gradient": (torch.tensor(0.5, requires_grad=True), 0.5),
    "half": (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    "sparse": (torch.tensor(0.5).to_sparse(), None),
    "two": (torch.ones(2), None),
    "none in a tensor": (torch.empty(0), None),
    "complex": (torch.tensor(1j), None),
    "without values": (torch.empty((), device="meta"), None),
    "huge": (HUGE, None),
    "a text": ("0.5", None),
    "bytes": (b"0.5", None),
    "a list": ([0.5], None),
    "arrays": (np.ones(2), None),
    "an object": (object(), None),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_any_kind(tmp_path, caplog, loss):
    value, expected = LOSSES[loss]
    steps = assert_recorded(tmp_path, caplog, make=sgd, log=value)
    if expected is not None:
        assert np.array_equal(steps["loss"], [expected] * STEPS, equal_nan=True)


def test_a_loss_whose_conversion_raises(tmp_path, caplog):
    class Odd:
        def __float__(self):
            raise RuntimeError("no number today")

        def __repr__(self):
            raise RuntimeError("no text either")

    assert_recorded(tmp_path, caplog, make=sgd, log=Odd())
