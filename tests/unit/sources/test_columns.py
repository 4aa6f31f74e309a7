"""Which columns of a table are read, by their usual names and by those that a user gives."""

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources.columns import choose

LAYERS = ["grad_2.0_norm/a", "grad_2.0_norm/b"]


def by_kind(*names, **given):
    return tuple(choose(names, "a.csv", **given).by_kind.values())


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


def test_given_names_stand_above_usual_ones():
    names = ("grad_norm", "n", "step", "at", "loss", "l")
    assert by_kind(*names, norm="n", step="at", loss="l") == ("n", "at", "l", None, None)


@pytest.mark.parametrize("kind", ["norm", "step", "loss"])
def test_a_given_name_that_is_not_there_is_an_error(kind):
    with pytest.raises(CannotImport, match=r"a\.csv has no 'other'"):
        choose(["grad_norm"], "a.csv", **{kind: "other"})


@pytest.mark.parametrize("names", [(), ("loss",), ("grad_norm", "total_norm")])
def test_no_norm_and_two_norms_are_errors(names):
    with pytest.raises(CannotImport, match="Name it with --norm"):
        choose(names, "a.csv")


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
