"""Losses of validations as they are kept in meta; their course is that of a finding (test_overfitting.py)."""

from gradwatch.analysis.statistics.validation import validation_losses


def test_a_resumed_training_replaces_what_came_after_its_checkpoint():
    meta = {
        "validation_loss.1700000009": "[[10, 3.0], [20, 2.0], [30, 9.0]]",
        "validation_loss.1700000100": "[[20, 1]]",
    }
    assert validation_losses(meta).to_dict() == {10: 3.0, 20: 1.0}


def test_a_damaged_entry_and_losses_that_are_not_finite_are_left_out():
    assert validation_losses({"validation_loss.1": "[[10, "}).empty
    assert validation_losses({"validation_loss.1": "[[1, NaN], [2, Infinity], [3, 4.0]]"}).to_dict() == {3: 4.0}
