"""Checks of what several commands take. They need no pandas, so that `gradwatch run` starts a script without it."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.errors import BadArgument
from gradwatch.record import KINDS


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that each is a kind of event.

    Raises:
        BadArgument: one of them is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise BadArgument(f"{kind!r} is not a kind of event; expected one of {', '.join(KINDS)}.")
