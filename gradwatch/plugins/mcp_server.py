"""A server of the Model Context Protocol: six tools that read the runs below a folder, and none that writes.

It speaks over standard input and output, so only the program that started it can ask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradwatch.errors import GradwatchError, RunNotFound, UnsupportedVersion
from gradwatch.plugins.answers import Answers
from gradwatch.version import __version__

INSTRUCTIONS = (
    "Recorded PyTorch trainings: gradient norms, clipping and faults of every step. Begin with list_runs, then"
    " check_run: a finding names the cause, its certainty, the remedy and how to confirm it. Change one thing at a time"
    " and compare_runs. No threshold prevents a NaN that a division or a logarithm makes: read the cause first."
)


def make_server(folder: Path) -> Any:
    """The server of a folder's runs; ``run("stdio")`` serves until its input ends.

    Raises:
        RunNotFound: there is no such folder.
        UnsupportedVersion: the package mcp is not installed, or is too old.
    """
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise UnsupportedVersion("mcp 2 or newer is not installed: `pip install gradwatch[mcp]`.") from error
    if not folder.is_dir():
        raise RunNotFound(f"There is no folder {str(folder)!r}. Give one that holds runs.")
    server = MCPServer(name="gradwatch", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")
    answers = Answers(folder)
    for tool in (
        answers.list_runs,
        answers.check_run,
        answers.read_events,
        answers.read_report,
        answers.recommend_threshold,
        answers.compare_runs,
    ):
        annotations = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
        server.add_tool(_told(tool), annotations=annotations, structured_output=False)
    return server


def _told(tool: Callable[..., str]) -> Callable[..., str]:
    """The tool with our errors as answers: their text, with its slug, is for the agent."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    def called(*args: Any, **options: Any) -> str:
        try:
            return tool(*args, **options)
        except GradwatchError as error:
            raise ToolError(str(error)) from error

    return called
