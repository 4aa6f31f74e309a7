"""The worked examples of CONTRIBUTING.md run as they stand, and its tests pass."""

import doctest
import re
import types
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (Add a \w+)$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))


def blocks(section):
    return re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)


@pytest.fixture(scope="module")
def examples():
    """One namespace for the page, as a reader who follows it from top to bottom has it."""
    module = types.ModuleType("contributing")
    for section in SECTIONS:
        for block in blocks(section):
            exec(compile(block, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


def test_there_is_an_example_with_its_test_for_each_extension():
    assert set(SECTIONS) == {"Add a detector", "Add a statistic", "Add a view"}
    for section in SECTIONS:
        code, test = blocks(section)
        assert "def test_" not in code
        assert "def test_" in test


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", PAGE, re.MULTILINE))
def test_a_test_of_the_page_passes(examples, name):
    getattr(examples, name)()


def test_its_doctests_pass(examples):
    found = doctest.DocTestFinder().find(examples.longest_clipped, "longest_clipped", globs=vars(examples))
    results = [doctest.DocTestRunner().run(one) for one in found]
    assert sum(result.attempted for result in results) == 1
    assert sum(result.failed for result in results) == 0
