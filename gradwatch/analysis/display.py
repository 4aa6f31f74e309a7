"""How a summary shows itself in a notebook, without analysis knowing any view.

A view imports the summary that it draws, so the summary must not import the view. `gradwatch/__init__.py`, the
last stage and the first that Python runs, registers the renderer here; it imports the view when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_renderers: list[Callable[[Any], str]] = []  # of a RunSummary; at most one


def show_in_notebooks_with(render: Callable[[Any], str]) -> None:
    """Register the function that makes HTML of a summary; the last one registered is used."""
    _renderers[:] = [render]


def as_html(summary: object) -> str | None:
    """The summary as HTML; None without a renderer, and a notebook then shows the text."""
    return _renderers[0](summary) if _renderers else None
