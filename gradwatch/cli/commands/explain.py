"""`gradwatch explain`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from gradwatch.analysis.diagnosis.pages import PAGES, as_text
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument
from gradwatch.record import KINDS
from gradwatch.views.encode import dumps


def explain(code: str | None, json: bool = False) -> None:
    """Print the page of a code, or without one the list of codes.

    Raises:
        BadArgument: there is no such code.
    """
    if code is not None and code not in PAGES:
        which = "a kind of event, not the code of a finding" if code in KINDS else "not the code of a finding"
        shown = f"; `gradwatch events --kind {code}` shows its events" if code in KINDS else ""
        raise BadArgument(f"{code!r} is {which}; `gradwatch explain` lists the codes{shown}.")
    if json:
        listed = [{"code": name, "title": page.title} for name, page in PAGES.items()]
        typer.echo(dumps(listed if code is None else {"code": code, **asdict(PAGES[code])}))
    elif code is None:
        width = max(map(len, PAGES))
        for name, page in PAGES.items():
            print_lines(f"{name:<{width}}  {page.title}")
    else:
        print_lines(as_text(code))
