"""How a run and its summary show themselves in a notebook, without analysis knowing any view.

A view imports the summary that it draws, so the summary must not import the view. `gradwatch/__init__.py`, the
last stage and the first that Python runs, registers the renderers here; they import the view when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gradwatch.analysis.notebook_page import NotebookPage


class Renderers(NamedTuple):
    """What makes HTML.

    Attributes:
        of_summary: a part of a document, without a script, of a RunSummary.
        of_run: a whole document, with its script, of a Run and the name of an optimizer or None.
    """

    of_summary: Callable[[Any], str]
    of_run: Callable[[Any, str | None], str]


_renderers: list[Renderers] = []  # at most one


def show_in_notebooks_with(renderers: Renderers) -> None:
    """Register what makes HTML; the last one registered is used."""
    _renderers[:] = [renderers]


def as_html(summary: object) -> str | None:
    """The summary as HTML; None without a renderer, and a notebook then shows the text."""
    return _renderers[0].of_summary(summary) if _renderers else None


def as_page(run: object, optimizer: str | None, height: int) -> NotebookPage:
    """The page of a run with its worst optimizers, or with one."""
    from gradwatch.analysis.notebook_page import NotebookPage

    return NotebookPage(_renderers[0].of_run(run, optimizer), height)
