"""The log of a Hugging Face Trainer becomes a run or a clear error."""

import json
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.validation import validation_losses
from gradwatch.errors import CannotImport
from gradwatch.sources import read, write

from .support import imported


def trainer_state(**changes):
    log = [
        {"epoch": 0.1 * i, "grad_norm": 1.0 + 0.01 * i, "learning_rate": 1e-4, "loss": 2.0, "step": 10 * (i + 1)}
        for i in range(50)
    ]
    log.append({"eval_loss": 1.0, "step": 500})
    return {"log_history": log, "global_step": 500, **changes}


def test_the_log_of_a_hugging_face_trainer(tmp_path):
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps(trainer_state()))
    made = write(read([file]), tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == [10 * (i + 1) for i in range(50)]
    np.testing.assert_allclose(steps["total_norm"], 1 + 0.01 * np.arange(50))
    assert Run(tmp_path / "run").meta()["moment"] == "before clipping"
    assert made.every == 10
    assert any("every 10 steps" in note for note in made.notes)
    # A checkpoint's folder stands for the file in it.
    assert_norms_equal = imported([tmp_path], tmp_path / "again").steps()["total_norm"]
    assert assert_norms_equal.tolist() == steps["total_norm"].tolist()


def test_norms_that_are_not_finite_are_kept(tmp_path):
    state = trainer_state()
    state["log_history"][5]["grad_norm"], state["log_history"][6]["grad_norm"] = math.nan, math.inf
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    norms = imported([tmp_path / "trainer_state.json"], tmp_path).steps()["total_norm"].to_numpy()
    assert math.isnan(norms[5])
    assert norms[6] == math.inf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"log_history": 3}',
        '{"log_history": []}',
        '{"log_history": [{"learning_rate": 1, "step": 1}]}',
        '{"log_history": [{"grad_norm": "x", "step": 1}]}',
        '{"log_history": [{"grad_norm": 1, "step": -1}]}',
        '{"log_history": [{"grad_norm": 1, "step": "1"}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_trainer_state_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CannotImport):
        read([tmp_path / "a.json"])


@pytest.mark.parametrize("digits", [17, 309, 400, 5000])
@pytest.mark.parametrize("key", ["step", "grad_norm", "loss", "learning_rate"])
def test_whole_numbers_too_large_for_64_bits_are_refused_or_floats(tmp_path, key, digits):
    entry = {"step": 1, "grad_norm": 1, "loss": 1, "learning_rate": 1}
    text = json.dumps({"log_history": [entry | {key: "@"}, {"step": 5, "grad_norm": 1}]})
    (tmp_path / "a.json").write_text(text.replace('"@"', "1" + "0" * digits))
    fits = key != "step" and digits < 309
    if fits:
        run = imported([tmp_path / "a.json"], tmp_path)
        assert 10.0**digits in run.steps().iloc[0].tolist()
        return
    with pytest.raises(CannotImport):
        imported([tmp_path / "a.json"], tmp_path)
    assert not (tmp_path / "run").exists()


def test_losses_of_evaluations_are_kept(tmp_path):
    """A Trainer logs them in entries of their own, between those of the training."""
    state = trainer_state()
    state["log_history"] += [
        {"eval_loss": 1.5, "step": 20},
        {"eval_loss": "x", "step": 40},
        {"eval_loss": 1.25, "step": 60},
    ]
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps(state))
    write(read([file]), tmp_path / "run")
    assert validation_losses(Run(tmp_path / "run").meta()).to_dict() == {20: 1.5, 60: 1.25, 500: 1.0}
