"""`gradwatch explain`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from gradwatch.analysis.diagnosis.pages import PAGES, as_text
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument
from gradwatch.views.encode import dumps


def explain(code: str | None, json: bool = False) -> None:
    """Print the page of a code, or without one the list of codes.

    Raises:
        BadArgument: there is no such code.
    """
    if code is not None and code not in PAGES:
        raise BadArgument(f"{code!r} is not the code of a finding; `gradwatch explain` lists them.")
    if json:
        listed = [{"code": name, "title": page.title} for name, page in PAGES.items()]
        typer.echo(dumps(listed if code is None else {"code": code, **asdict(PAGES[code])}))
    elif code is None:
        width = max(map(len, PAGES))
        for name, page in PAGES.items():
            print_lines(f"{name:<{width}}  {page.title}")
    else:
        print_lines(as_text(code))
