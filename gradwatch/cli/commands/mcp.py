"""`gradwatch mcp`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.plugins.mcp_server import make_server


def mcp(folder: Path) -> None:
    """Serve the runs below a folder to an agent until standard input ends.

    Raises:
        RunNotFound: there is no such folder.
        UnsupportedVersion: the package mcp is missing.
    """
    make_server(folder).run("stdio")
