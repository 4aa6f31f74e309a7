"""Optimizers known by what they do."""

from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.optimizer_history import optimizer_history
from gradwatch.record import WeightStats
from gradwatch.testing import steady, stream, write_run


def sampled(update_of, steps=400, spread=0.8):
    """Records of which each update's norm is a function of the gradient's."""
    norms = steady(steps, spread=spread)
    records = stream(norms)
    weight = np.ones(2, np.float32)
    return [
        replace(
            record,
            weights=None
            if record.step % 10
            else WeightStats(weight_norm=weight, update_norm=weight * np.float32(update_of(norm) / np.sqrt(2))),
        )
        for record, norm in zip(records, norms, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "update_of", "expected"),
    [
        ("SGD", lambda n: 1.0, "follows-gradient"),  # known by its class, whatever was recorded
        ("Adam", lambda n: n, "normalises"),
        ("Mine", lambda n: 0.1 * n, "follows-gradient"),
        ("Prodigy", lambda n: 1e-3, "normalises"),
        ("Between", lambda n: n**0.5, None),
        ("AdamW8bit", lambda n: n**0.5, "normalises"),  # by its family, where the record does not tell
        ("AdamButNot", lambda n: n, "follows-gradient"),  # by the record, whatever its name
    ],
)
def test_an_optimizer_is_known_by_its_class_or_by_its_updates(tmp_path, name, update_of, expected):
    run = Run(write_run(tmp_path, sampled(update_of), name))
    assert optimizer_history(run).update_rule == expected


def test_an_optimizer_of_which_too_little_is_known_is_unknown(tmp_path):
    few = Run(write_run(tmp_path / "few", sampled(lambda n: n, steps=50), "Mine"))
    assert optimizer_history(few).update_rule is None
    alike = Run(write_run(tmp_path / "alike", sampled(lambda n: n, spread=0.01), "Mine"))
    assert optimizer_history(alike).update_rule is None


def test_an_unknown_optimizer_is_advised_by_the_norms_alone(tmp_path):
    """Not by the bound on an update, which holds for SGD."""
    run = Run(write_run(tmp_path, stream(steady(1000)), "SomethingNew"))
    advice = run.recommend()
    assert any("not known whether the update of SomethingNew" in reason for reason in advice.reasons)
    assert advice.confidence == "low"
    assert advice.max_norm == pytest.approx(np.quantile(steady(1000)[50:], 0.9), rel=0.1)
