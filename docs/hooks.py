"""What `mkdocs build` needs to know of this repository: links to files outside of docs/, and the API reference.

A link that leads out of docs/ becomes one to the repository, if the file is there; a link to a file that is missing is
a warning, with which ``--strict`` fails.
"""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/gradwatch/gradwatch/blob/main"
log = logging.getLogger("mkdocs.hooks")
# Out of docs/, or to a file in it that is no page.
_LINK = re.compile(r"\]\((\.\./[^)#\s]+|(?:\w[\w.-]*/)*\w[\w.-]*\.(?:txt|py|json)|schemas/)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files that are no page into links to the repository."""
    return _LINK.sub(lambda found: _linked(found, page), markdown)


def _linked(found: re.Match[str], page: Any) -> str:
    target = (ROOT / "docs" / Path(page.file.src_uri).parent / found[1]).resolve()
    if not target.is_relative_to(ROOT) or not target.exists():
        log.warning("%s links to %s, which is not there", page.file.src_uri, found[1])
        return found[0]
    return f"]({REPOSITORY}/{target.relative_to(ROOT).as_posix()}{found[2] or ''})"


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the page of the API, which is made of docstrings."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def api_page() -> str:
    """The public names, each with its docstring; read from the source, so that building needs no torch."""
    homes = _assigned("gradwatch/__init__.py", "_HOMES")
    names = [name for name in _assigned("gradwatch/__init__.py", "__all__") if name in homes]
    policies = _assigned("gradwatch/clip/__init__.py", "__all__")
    parts = ["# API reference", "## gradwatch"]
    parts += [f"::: gradwatch.{homes[name]}.{name}" for name in names]
    parts += ["## gradwatch.clip", *(f"::: gradwatch.clip.{name}" for name in policies)]
    parts += ["## gradwatch.testing", "::: gradwatch.testing"]
    parts += ["## gradwatch.errors", "::: gradwatch.errors"]
    return "\n\n".join(parts) + "\n"


def _assigned(file: str, name: str) -> Any:
    """The literal that a module assigns to a name."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return ast.literal_eval(node.value)
    raise LookupError(f"{file} assigns nothing to {name}")
