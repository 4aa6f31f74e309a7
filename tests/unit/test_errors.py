"""Every error has a slug of its own, at the end of its message."""

import inspect
import re

import pytest

from gradwatch import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_the_errors_are_found():
    assert len(CLASSES) > 15


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_a_message_ends_with_the_slug(error):
    assert issubclass(error, errors.GradwatchError)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.slug)
    assert str(error("what happened")) == f"what happened ({error.slug})"


def test_no_two_errors_share_a_slug():
    slugs = [error.slug for error in CLASSES]
    assert len(set(slugs)) == len(slugs)


@pytest.mark.parametrize("error", [errors.BadArgument, errors.NoParameters])
def test_an_error_about_an_argument_is_a_value_error(error):
    assert issubclass(error, ValueError)
    with pytest.raises(ValueError, match="what happened"):
        raise error("what happened")
