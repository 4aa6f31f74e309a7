"""The message of an event is for people: no decision may rest on its words."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gradwatch"
# Where messages are written, printed, logged or kept.
MAY_PRINT = {"views", "cli", "cli.py", "recording", "script", "store", "record.py", "detect", "sinks"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def reads_of_message(source):
    """The lines that read an attribute ``message``."""
    nodes = ast.walk(ast.parse(source))
    return [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "message"]


def decisions_on_message(source):
    """The lines where a message is compared, searched, split or passed through a method of its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        of_method = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
        if of_method and node.value.attr == "message":
            found.append(node.lineno)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found += [node.lineno for side in sides if isinstance(side, ast.Attribute) and side.attr == "message"]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_what_prints_reads_a_message(path):
    source = path.read_text()
    assert decisions_on_message(source) == []
    if path.relative_to(PACKAGE).parts[0] not in MAY_PRINT:
        assert reads_of_message(source) == []


@pytest.mark.parametrize(
    "line",
    ['event.message.startswith("the loss")', '"overflow" in event.message', 'event.message == "x"'],
)
def test_a_decision_on_a_message_would_be_found(line):
    assert decisions_on_message(f"def f(event):\n    return {line}\n") == [2]
    assert reads_of_message(f"print({line})") == [1]
