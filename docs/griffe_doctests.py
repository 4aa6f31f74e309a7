"""For `mkdocs build`: the examples of a docstring become blocks of code, so that brackets in them are no links."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences every block that begins with ``>>>`` and ends at an empty line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    r"""A docstring with its examples as code.

    >>> fenced("One.\n\n>>> 1 + 1\n2\n\nTwo.").splitlines()
    ['One.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'Two.']
    """
    lines: list[str] = []
    is_open = False
    for line in text.splitlines():
        if not is_open and line.startswith(">>> "):
            lines.append("```pycon")
            is_open = True
        elif is_open and not line.strip():
            lines.append("```")
            is_open = False
        lines.append(line)
    return "\n".join([*lines, *(["```"] if is_open else [])])
