"""`gradwatch mcp`, asked by the protocol's own client over standard input and output."""

import asyncio
import json
import math
import os
import sys

import pytest

from gradwatch.errors import RunNotFound, UnsupportedVersion
from gradwatch.plugins.mcp_server import make_server
from gradwatch.testing import replaced, steady, stream, write_run


@pytest.fixture(autouse=True, scope="module")
def _needs_mcp():
    """Imported by the first test: it takes a second, and every worker collects this module."""
    pytest.importorskip("mcp", reason="needs gradwatch[mcp]")


CALLS = {
    "list_runs": {},
    "check_run": {"run": "bad"},
    "read_events": {"run": "bad"},
    "read_report": {"run": "bad"},
    "recommend_threshold": {"run": "bad"},
    "compare_runs": {"first": "bad", "second": "bad"},
}
REFUSED = [
    ("check_run", {"run": "../secret"}, "(run-not-found)"),
    ("check_run", {"run": "/etc"}, "(run-not-found)"),
    ("read_events", {"run": "bad", "severity": "loud"}, "(bad-argument)"),
    ("list_runs", {"filter": "((("}, "(bad-argument)"),
    ("check_run", {}, "run"),
    ("delete_run", {"run": "bad"}, "delete_run"),
]


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "runs/bad", stream(replaced(steady(300), {150: 90.0, 299: math.nan})))
    write_run(tmp_path / "secret", stream(steady(300)))
    return tmp_path / "runs"


async def conversation(folder):
    """The tools, the answer of each, and what is said to calls that are refused."""
    import mcp

    command = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "gradwatch", "mcp", str(folder)], env=dict(os.environ)
    )
    async with mcp.Client(command) as client:
        tools = (await client.list_tools()).tools
        answers = {name: await client.call_tool(name, arguments) for name, arguments in CALLS.items()}
        refused = []
        for name, arguments, _ in REFUSED:
            try:
                refused.append(await client.call_tool(name, arguments))
            except mcp.MCPError as error:
                refused.append(error)
        return tools, answers, refused


def test_a_client_gets_six_tools_answers_and_clear_refusals(folder):
    tools, answers, refused = asyncio.run(conversation(folder))
    assert sorted(tool.name for tool in tools) == sorted(CALLS)
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    for name, answer in answers.items():
        assert not answer.is_error, name
        assert answer.structured_content is None, "an answer is not sent twice"
        assert isinstance(json.loads(answer.content[0].text), dict)
    assert json.loads(answers["check_run"].content[0].text)["findings"]
    for (name, _, text), answer in zip(REFUSED, refused, strict=True):
        said = str(answer) if isinstance(answer, Exception) else answer.content[0].text
        assert isinstance(answer, Exception) or answer.is_error, name
        assert text in said
        assert "Traceback" not in said


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunNotFound):
        make_server(tmp_path / "none")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(UnsupportedVersion, match=r"gradwatch\[mcp\]"):
        make_server(tmp_path)
