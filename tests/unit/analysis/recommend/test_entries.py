"""By value or by norm: spikes of one entry, of all entries, and records that can't tell."""

import dataclasses

import numpy as np
import pytest
import torch

from gradwatch import Run
from gradwatch.analysis.recommend.entries import value_or_norm
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.record import LayerStats, ParameterInfo
from gradwatch.testing import replaced, steady, stream, write_run

SPIKES = dict.fromkeys((400, 500, 600), 60.0)


def said(path, norms, share):
    """What is said of a run whose largest entry has this share of each squared norm; None: not recorded."""
    records = []
    for record in stream(norms):
        largest = None if share is None else np.array([record.total_norm * share**0.5, 0.0], np.float32)
        records.append(dataclasses.replace(record, layers=dataclasses.replace(record.layers, abs_max=largest)))
    run = Run(write_run(path, records))
    return value_or_norm(run, "0", optimizer_history(run), 2.0)


@pytest.mark.parametrize(
    ("norms", "share", "says"),
    [
        pytest.param(replaced(steady(800), SPIKES), 0.99, "one entry carries 99%", id="one entry"),
        pytest.param(replaced(steady(800), SPIKES), 0.1, "by norm, for the steps", id="many entries"),
        pytest.param(replaced(steady(800), SPIKES), None, "lacks the largest entries", id="not recorded"),
        pytest.param(steady(800), 0.99, "no step stood out", id="no spike"),
    ],
)
def test_who_carries_the_spikes_decides(tmp_path, norms, share, says):
    assert says in said(tmp_path, norms, share).reason


def of_two(path, spike):
    """What is said of a run of two parameters with these norms at three spikes, each spread over 100 entries."""
    parameters = tuple(ParameterInfo(name=name, shape=(10, 10), dtype="float32") for name in ("a.weight", "b.weight"))
    rng, records = np.random.default_rng(0), []
    for record in stream(steady(800)):
        norm = np.asarray(spike if record.step in SPIKES else np.exp(0.05 * rng.standard_normal(2)), np.float32)
        zero = np.zeros(2, np.float32)
        layers = LayerStats(parameters=parameters, norm=norm, abs_max=norm / 10, nonfinite=zero, zeros=zero)
        total = float(np.linalg.norm(norm.astype(float)))
        records.append(dataclasses.replace(record, layers=layers, weights=None, total_norm=total))
    run = Run(write_run(path, records))
    return value_or_norm(run, "0", optimizer_history(run), 2.0)


def test_where_one_parameter_alone_stands_out_it_is_to_be_clipped_alone(tmp_path):
    assert "per parameter, for b.weight alone stood out" in of_two(tmp_path / "alone", (1.0, 60.0)).reason
    assert "by norm, for the steps" in of_two(tmp_path / "both", (60.0, 60.0)).reason


@pytest.mark.parametrize("zeros", [0, 36])
def test_a_threshold_by_value_keeps_every_step_within_the_threshold_by_norm(tmp_path, zeros):
    """PyTorch's clip by value, of a gradient all of whose entries that are not 0 are far above it."""
    records = []
    for record in stream(replaced(steady(800), SPIKES)):
        parameters = (ParameterInfo(name="a.weight", shape=(10, 10), dtype="float32"),)
        largest, none = np.array([record.total_norm], np.float32), np.zeros(1, np.float32)
        layers = LayerStats(
            parameters=parameters, norm=largest, abs_max=largest, nonfinite=none, zeros=none + np.float32(zeros)
        )
        records.append(dataclasses.replace(record, layers=layers, weights=None))
    run = Run(write_run(tmp_path, records))
    how = value_or_norm(run, "0", optimizer_history(run), 2.0)
    weight = torch.nn.Parameter(torch.zeros(100))
    weight.grad = torch.full((100,), 1e6)
    weight.grad[:zeros] = 0.0
    torch.nn.utils.clip_grad_value_([weight], how.clip_value)
    assert how.by == "value"
    assert float(weight.grad.norm()) == pytest.approx(2.0, rel=0.05)  # of two digits


def test_only_the_advice_by_value_has_a_threshold_by_value(tmp_path):
    assert said(tmp_path, replaced(steady(800), SPIKES), 0.1).clip_value is None
