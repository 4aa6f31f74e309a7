"""Filters choose what Python's own expression would, and nothing but comparisons can be written."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.analysis.filters import MAX_LENGTH, parse_filter
from gradwatch.errors import BadArgument

NAMES = {name: name for name in ("a", "b", "text", "tags", "config")}


def chooses(expression, **row):
    return parse_filter(expression, NAMES)(row)


NUMBERS = st.one_of(st.integers(-5, 5), st.floats(-5, 5))
ATOMS = st.builds(
    lambda left, op, right: f"{left} {op} {right}",
    st.sampled_from(["a", "b"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.one_of(NUMBERS.map(repr), st.sampled_from(["a", "b"])),
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(lambda x, op, y: f"({x}) {op} ({y})", inner, st.sampled_from(["and", "or"]), inner),
        inner.map(lambda x: f"not ({x})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, NUMBERS, NUMBERS)
def test_a_filter_chooses_as_python_would(text, a, b):
    assert chooses(text, a=a, b=b) == eval(text, {"a": a, "b": b})


def test_texts_lists_and_chains():
    assert chooses("text in ('x', 'y') and 'k' in tags and 0 < a <= 2", text="y", tags=("k",), a=2)
    assert not chooses("text not in ['y']", text="y")


def test_settings_of_a_config_have_dotted_names():
    config = {"model.depth": 4, "lr": 0.1}
    assert chooses("config.model.depth == 4 and config.lr < 1", config=config)
    assert not chooses("config.other > 1", config=config)
    assert eval("config.lr < 1", {"config": SimpleNamespace(**config)})


def test_what_is_not_known_is_neither_above_nor_below():
    for text in ("a > 0", "a <= 0", "0 < a", "a == 0"):
        assert not chooses(text, a=None)
    assert chooses("a == None", a=None)
    assert chooses("not a > 0", a=None)
    assert not chooses("a < 'x'", a=1)
    assert not chooses("a > 0", a=math.nan)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a >",
            "a = 1",
            "a; b",
            "lambda: 1",
            "a if b else 1",
            "[a for a in b]",
            "f'{a}'",
            "a + 1 > 2",
            "2 ** 9 ** 9",
        ),
        *("__import__('os').system('x')", "a.real > 1", "a[0] > 1", "print(a)", "(a := 1)", "x > 1", "{1: 2}", "{a}"),
        *(
            "config.__class__.__mro__()",
            "b'x' == a",
            "1j == a",
            "... == a",
            "a is None",
            "-text > 1",
            "~a > 1",
            "a" * 2000,
        ),
        *("(" * 500 + "a" + ")" * 500, "not " * 200 + "a @ b", "a" * 2000, "2 ** 9 ** 9"),
    ],
)
def test_anything_else_is_one_clear_error(text):
    with pytest.raises(BadArgument, match="the filter"):
        parse_filter(text, NAMES)


def test_a_name_with_underscores_reads_only_a_setting():
    assert not chooses("config.__class__ == 1", config={"lr": 1})


@given(st.text(max_size=60))
def test_no_text_raises_anything_else(text):
    try:
        found = parse_filter(text, NAMES)({"a": 1})
    except BadArgument:
        return
    assert found in (True, False)
    assert len(text) <= MAX_LENGTH
