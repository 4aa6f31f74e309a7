"""Which columns of a table are read, by their usual names and by those that a user gives."""

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources.columns import choose

LAYERS = ["grad_2.0_norm/a", "grad_2.0_norm/b"]


def by_kind(*names, **given):
    """The norm, the step, the loss, the learning rate and the reward."""
    return tuple(choose(names, "a.csv", **given).by_kind.values())[:5]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("grad_norm",), ("grad_norm", None, None, None, None)),
        (("loss", "grad_norm", "step", "lr"), ("grad_norm", "step", "loss", "lr", None)),
        (("train/Grad-Norm", "train/global_step"), ("train/Grad-Norm", "train/global_step", None, None, None)),
        (("grad_norm", "train_loss_of_epoch", "loss", "loss_step"), ("grad_norm", None, "loss", None, None)),
        (("grad_norm", "rewards/fn/mean", "reward", "eval/reward"), ("grad_norm", None, None, None, "reward")),
        (("grad_norm", "critic/score/mean", "critic/score/max"), ("grad_norm", None, None, None, "critic/score/mean")),
        (("grad_norm", "rewards/chosen", "rewards/margins"), ("grad_norm", None, None, None, None)),
    ],
)
def test_usual_names_are_found_whatever_their_order(names, expected):
    assert by_kind(*names) == expected
    assert by_kind(*reversed(names)) == expected


@pytest.mark.parametrize("name", ["val_loss", "eval/loss", "valid_loss", "run 7 - val_loss", "loss/val"])
def test_the_loss_of_validations_has_a_place_of_its_own(name):
    columns = choose(["loss", "grad_norm", "test_accuracy", name], "a.csv")
    assert (columns.loss, columns.validation_loss) == ("loss", name)
    assert choose(["loss", "grad_norm"], "a.csv").validation_loss is None


def test_given_names_stand_above_usual_ones():
    names = ("grad_norm", "n", "step", "at", "loss", "l")
    assert by_kind(*names, norm="n", step="at", loss="l") == ("n", "at", "l", None, None)


@pytest.mark.parametrize("kind", ["norm", "step", "loss"])
def test_a_given_name_that_is_not_there_is_an_error(kind):
    with pytest.raises(CannotImport, match=r"a\.csv has no 'other'"):
        choose(["grad_norm"], "a.csv", **{kind: "other"})


def test_two_norms_are_an_error():
    with pytest.raises(CannotImport, match="Name it with --norm"):
        choose(["grad_norm", "total_norm"], "a.csv")


@pytest.mark.parametrize("names", [(), ("step", "lr", "accuracy"), ("eval/loss", "weight_norm")])
def test_neither_norm_nor_loss_nor_reward_is_an_error(names):
    with pytest.raises(CannotImport, match=r"norm, a loss or a reward.*Name one with --norm or --loss"):
        choose(names, "a.csv")


@pytest.mark.parametrize(
    ("names", "of_points"),
    [
        (("loss", "grad_norm", "reward"), ("grad_norm",)),
        ((*LAYERS, "loss"), tuple(LAYERS)),
        (("reward", "loss", "step"), ("loss",)),
        (("reward", "step"), ("reward",)),
        (("lm_loss", "step"), ("lm_loss",)),
    ],
)
def test_a_row_counts_by_its_norm_else_its_loss_else_its_reward(names, of_points):
    columns = choose(names, "a.csv")
    assert columns.of_points == of_points
    assert columns.has_norms == ("loss" not in of_points[0] and "reward" not in of_points[0])


def test_an_unusual_name_of_a_loss_counts_only_where_no_usual_one_is():
    assert by_kind("total_loss", "loss")[2] == "loss"
    assert by_kind("total_loss", "grad_norm")[2] == "total_loss"
    assert by_kind("total_loss", "total_loss2", "eval/total_loss")[2] == "total_loss"


def test_without_a_total_norm_that_of_the_layers_is_said_to_be_computed():
    columns = choose([*LAYERS, "step"], "a.csv")
    assert columns.norm is None
    assert columns.series.layers == ("a", "b")
    assert len(columns.layer_notes) == 2
    assert "computed from the norms of 2 layers" in columns.layer_notes[1]


def test_a_total_norm_beside_the_layers_is_taken_as_it_is():
    columns = choose([*LAYERS, "grad_norm"], "a.csv")
    assert columns.norm == "grad_norm"
    assert columns.layer_notes == (columns.series.note,)


def test_a_layer_that_is_named_as_the_norm_is_no_layer():
    columns = choose([*LAYERS, "grad_2.0_norm/c"], "a.csv", norm="grad_2.0_norm/a")
    assert columns.norm == "grad_2.0_norm/a"
    assert columns.series.layers == ("b", "c")


def test_without_layers_there_is_nothing_to_say_of_them():
    assert choose(["grad_norm"], "a.csv").layer_notes == ()
