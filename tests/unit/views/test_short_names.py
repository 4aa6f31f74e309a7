"""Names that are cut: never longer than their width, and told apart where possible."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.views.short_names import shorten_all, shorten_layers

NAMES = st.lists(
    st.lists(st.sampled_from(["encoder", "layer", "0", "1", "11", "attention_self", "query", "weight", "bias"]))
    .map(".".join)
    .filter(bool),
    min_size=1,
    max_size=30,
    unique=True,
)


@given(NAMES, st.integers(0, 60), st.sampled_from(["…", ".."]))
def test_shortened_names_fit_and_those_that_fitted_stay(names, width, mark):
    for name, short in zip(names, shorten_all(names, width, mark), strict=True):
        assert len(short) <= width
        if len(name) <= width:
            assert short == name


@given(NAMES, st.integers(22, 60), st.sampled_from(["…", ".."]))
def test_different_names_stay_different(names, width, mark):
    assert len(set(shorten_all(names, width, mark))) == len(names)


@pytest.mark.parametrize("width", [22, 30, 36])
def test_layers_that_differ_in_the_middle_of_their_names_can_be_told_apart(width):
    names = [f"encoder.layer.{i}.attention_self.query.{kind}" for i in range(12) for kind in ("weight", "bias")]
    shown = shorten_all(names, width)
    assert len(set(shown)) == 24
    for name, short in zip(names, shown, strict=True):
        assert f".{name.split('.')[2]}." in short


def test_names_of_200_characters_that_differ_in_one_can_be_told_apart():
    names = [f"{'a' * 100}{letter}{'b' * 99}" for letter in "xyz"]
    assert [any(letter in short for letter in "xyz") for short in shorten_all(names, 20)] == [True] * 3


def test_no_names_are_no_names():
    assert shorten_all([], 10) == []


def test_equal_names_stay_equal():
    assert len(set(shorten_all(["x" * 50] * 3, 10))) == 1


@given(NAMES, st.integers(8, 60), st.sampled_from(["…", ".."]))
def test_shortened_layers_fit_and_those_that_fitted_stay(names, width, mark):
    lost, short = shorten_layers(names, width, mark)
    assert all(name.startswith(lost) for name in names)
    assert all(len(one) <= width for one in short)
    if max(map(len, names)) <= width:
        assert (lost, short) == ("", names)


@pytest.mark.parametrize("width", [14, 18, 22, 36])
def test_layers_keep_their_numbers_and_lose_their_common_beginning(width):
    names = [
        f"model.decoder.layers.{i}.self_attention.{kind}_proj.weight" for i in range(24) for kind in ("query", "value")
    ]
    lost, short = shorten_layers(names, width)
    assert lost == "model.decoder.layers."
    assert len(set(short)) == 48
    assert [one.split(".")[0] for one in short] == [name.split(".")[3] for name in names]


def test_layers_without_a_common_beginning_keep_every_number():
    names = [
        "model.layers.17.experts.3.up_projection.weight",
        "model.layers.17.experts.30.up_projection.weight",
        "head",
    ]
    lost, short = shorten_layers(names, 24)
    assert lost == ""
    assert short == ["….17.….3.up_proj….weight", "….17.….30.up_pro….weight", "head"]


BLOCKS = [
    f"net.stage_{s}.block{b}.{kind}"
    for s in range(1, 5)
    for b in range(1, 25)
    for kind in ("conv1.weight", "norm2.bias")
]
ATTENTION = [
    f"net.stack.0.decoder_layers.{i}.attention_with_embeddings.{kind}"
    for i in range(12)
    for kind in ("q_proj.weight", "k_proj.weight", "out_proj.weight", "out_proj.bias")
]
LSTM = [
    f"net.{kind}_{gate}_l{i}{end}"
    for kind in ("weight", "bias")
    for gate in ("ih", "hh")
    for i in range(12)
    for end in ("", "_reverse")
]


@pytest.mark.parametrize("width", [15, 19, 22, 36])
@pytest.mark.parametrize("names", [BLOCKS, ATTENTION, LSTM], ids=["words with numbers", "many parts", "no parts"])
def test_no_layer_loses_a_number_or_looks_like_another(names, width):
    for some in (names, names[:12], names[3::5]):
        lost, short = shorten_layers(some, width)
        assert len(set(short)) == len(some)
        assert all(len(one) <= width for one in short)
        for name, one in zip(some, short, strict=True):
            assert re.findall(r"\d+", lost + one) == re.findall(r"\d+", name)


def test_a_common_beginning_ends_before_a_number_and_before_the_last_part():
    names = ["m.blocks.5.attention.weight_of_the_output", "m.blocks.5.attention.bias_of_the_output"]
    assert shorten_layers(names, 20) == ("m.blocks.", ["5.…ion.weight_of…put", "5.…ion.bias_of…put"])
    assert shorten_layers([], 5) == ("", [])
