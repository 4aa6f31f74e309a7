"""The files of the page, and the page as one file."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]

ENTRY = "report.js"
_IMPORT = re.compile(r'^import\s+(?P<what>\{[^}]*\}|\w+)\s+from\s+"(?P<file>[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(
    r"^export (?P<default>default )?(?P<kind>function|async function|class|const) (?P<name>\w+)", re.MULTILINE
)
_COMMENT = re.compile(r"^/\*(?!\*).*?\*/", re.MULTILINE | re.DOTALL)  # may hold code that exports; a notice stays
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
    """All modules that one needs, as a single script: a page from a disk can't import.

    Of the language it knows only what the files use: imports by name or of a default on one line, and exports
    where something is declared, or of one name as the default.
    """
    parts: list[str] = []
    _join(entry, parts, {})
    return '"use strict";\n' + "\n".join(parts)


def _join(file: str, parts: list[str], known: dict[str, str]) -> str:
    """Add a module and those that it needs; the name of the constant with its exports."""
    if file in known:
        return known[file]
    source = _COMMENT.sub("", files()[file].decode())
    folder = Path(file).parent

    def imported(match: re.Match[str]) -> str:
        needed = _join((folder / match["file"]).as_posix(), parts, known)
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
