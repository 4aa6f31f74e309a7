"""Every code of a finding has its page, and the docs are made of the pages."""

import re
from pathlib import Path

import pytest

from gradwatch.analysis import diagnosis
from gradwatch.analysis.diagnosis import PAGES
from gradwatch.analysis.diagnosis.pages import as_markdown, as_text

ROOT = Path(__file__).parents[4]

PACKAGE = Path(diagnosis.__file__).parent

RAISED = set(re.findall(r'code="([\w-]+)"', "".join(path.read_text() for path in PACKAGE.glob("*.py"))))


def test_every_code_has_a_page_and_every_page_its_code():
    assert set(PAGES) == RAISED


@pytest.mark.parametrize("code", sorted(PAGES))
def test_every_page_is_whole(code):
    page = PAGES[code]
    assert all((page.title, page.meaning, page.example, page.confirm, page.fix))
    assert page.title in as_text(code)


def test_the_docs_are_made_of_the_pages():
    assert (ROOT / "docs" / "findings.md").read_text() == as_markdown()


def test_an_unknown_code_has_no_page():
    with pytest.raises(KeyError):
        as_text("no-such-code")
