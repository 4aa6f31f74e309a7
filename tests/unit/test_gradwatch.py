"""The package itself: its names are there, and are imported when they are asked for."""

import inspect

import pytest

import gradwatch
from gradwatch.testing import steady, stream, write_run


@pytest.mark.parametrize("name", gradwatch.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(gradwatch, name))
    assert name in dir(gradwatch)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'gradwatch' has no attribute 'attatch'"):
        gradwatch.attatch  # noqa: B018


def test_a_notebook_shows_a_summary_as_html(tmp_path):
    html = gradwatch.Run(write_run(tmp_path / "a <run>", stream(steady(20)))).summary()._repr_html_()
    assert "a &lt;run&gt;" in html
    assert "a <run>" not in html
