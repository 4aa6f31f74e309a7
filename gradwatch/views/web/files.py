"""The files of the page, and the page as one file."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]

ENTRY = "report.js"
_IMPORT = re.compile(r'^import\s+(?P<what>\{[^}]*\}|\w+)\s+from\s+"(?P<file>[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(
    r"^export (?P<default>default )?(?P<kind>function|async function|class|const) (?P<name>\w+)", re.MULTILINE
)
_COMMENT = re.compile(r"^[ \t]*(/\*(?!\*\s*\* Copyright).*?\*/|//[^\n]*\n)", re.MULTILINE | re.DOTALL)
"""A comment at the beginning of a line. Licence notices stay."""
_EXPORT_AS = re.compile(r"^export \{ (?P<name>\w+) as default \};\n?", re.MULTILINE)


@cache
def files() -> dict[str, bytes]:
    """Every file of the page by its path below dashboards/, read once."""
    for folder in (_PACKAGE / "dashboards", _PACKAGE.parent / "dashboards"):  # of the wheel, of a checkout
        if folder.is_dir():
            return {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.suffix in (".js", ".css")
            }
    raise FileNotFoundError("the files of the page (dashboards/) are not where this package was installed")


def joined(entry: str = ENTRY) -> str:
    """A module and all that it imports, as a single script: a page opened from a disk can't import.

    It knows only the syntax that the files use: imports by name or of a default, and exports at a declaration
    or of one name as the default. Comments are left out, licence notices are kept.
    """
    parts: list[str] = []
    _join(entry, parts, {})
    return '"use strict";\n' + "\n".join(parts)


def _join(file: str, parts: list[str], known: dict[str, str]) -> str:
    """Add a module after those that it imports; return the name of the constant that holds its exports."""
    if file in known:
        return known[file]
    source = _COMMENT.sub("", files()[file].decode())
    folder = posixpath.dirname(file) or "."

    def imported(match: re.Match[str]) -> str:
        needed = _join(posixpath.normpath(f"{folder}/{match['file']}"), parts, known)
        what = match["what"]
        bound = what.replace(" as ", ": ") if what.startswith("{") else f"{{ default: {what} }}"
        return f"const {bound} = {needed};\n"

    source = _IMPORT.sub(imported, source)
    names = [(match["name"], "default" if match["default"] else match["name"]) for match in _EXPORT.finditer(source)]
    names += [(match["name"], "default") for match in _EXPORT_AS.finditer(source)]
    source = _EXPORT.sub(r"\g<kind> \g<name>", _EXPORT_AS.sub("", source))
    known[file] = f"module{len(known)}"
    exports = ", ".join(f"{outer}: {inner}" for inner, outer in names)
    parts.append(f"const {known[file]} = (() => {{\n{source}\nreturn {{ {exports} }};\n}})();")
    return known[file]
