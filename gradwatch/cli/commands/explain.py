"""`gradwatch explain`."""

from __future__ import annotations

import typer

from gradwatch.analysis.diagnosis.pages import PAGES, as_text
from gradwatch.errors import BadArgument


def explain(code: str | None) -> None:
    """Print the page of a code, or without one the list of codes.

    Raises:
        BadArgument: there is no such code.
    """
    if code is None:
        width = max(map(len, PAGES))
        for name, page in PAGES.items():
            typer.echo(f"{name:<{width}}  {page.title}")
        return
    if code not in PAGES:
        raise BadArgument(f"{code!r} is no code of a finding; `gradwatch explain` lists them.")
    typer.echo(as_text(code), nl=False)
