"""Expressions that choose runs, for example ``verdict != "healthy" and lr > 1e-3``, parsed and never executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from gradwatch.errors import BadArgument

Chooses: TypeAlias = Callable[[Mapping[str, Any]], bool]

MAX_LENGTH = 1000

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, within: value in within,
    ast.NotIn: lambda value, within: value not in within,
}
_PARTS = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Load),
    *(ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub),
    *_COMPARISONS,
)
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def parse_filter(text: str, names: Mapping[str, str]) -> Chooses:
    """Make a filter of an expression with Python's comparisons, ``and``, ``or``, ``not``, ``in`` and brackets.

    A value that is not known compares unequal to everything but None, and is neither above nor below anything.

    Args:
        text: the expression.
        names: what may stand in it, with the key that it stands for. ``config.NAME`` is a setting of the config.

    Raises:
        BadArgument: it is no such expression.

    >>> chooses = parse_filter("lr > 1e-3 and 'a' in tags", {"lr": "learning_rate", "tags": "tags"})
    >>> chooses({"learning_rate": 0.1, "tags": ("a",)}), chooses({"learning_rate": None, "tags": ("a",)})
    (True, False)
    """
    if len(text) > MAX_LENGTH:
        raise BadArgument(f"the filter has {len(text)} characters; expected at most {MAX_LENGTH}.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadArgument(f"the filter is {text!r}, which can't be read: {_reason(error)}.") from error
    _check(tree, text, names)
    return lambda row: bool(_value(tree, row, names))


def _reason(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else "it is too deep"


def _check(tree: ast.AST, text: str, names: Mapping[str, str]) -> None:
    """Refuse whatever is not part of a filter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in names:
            raise BadArgument(f"the filter names {node.id!r}; expected some of {', '.join(names)}, or config.NAME.")
        if not isinstance(node, _PARTS) or not _is_right(node):
            raise BadArgument(
                f"the filter is {text!r}; expected comparisons of {', '.join(names)} or config.NAME with numbers and"
                " texts, joined by and, or and not."
            )


def _is_right(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | int | float | None)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int | float)
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Attribute) or (isinstance(node.value, ast.Name) and node.value.id == "config")
    return True


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    return node.elts if isinstance(node, ast.List | ast.Tuple) else []


def _value(node: ast.AST, row: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return row.get(names[node.id])
    if isinstance(node, ast.Attribute):
        return (row.get("config") or {}).get(_dotted(node))
    if isinstance(node, ast.BoolOp):
        values = (bool(_value(each, row, names)) for each in node.values)
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, row, names)
        return not operand if isinstance(node.op, ast.Not) else -operand
    operands = [_value(each, row, names) for each in _operands(node)]
    if isinstance(node, ast.Compare):
        return all(map(_compare, node.ops, operands, operands[1:]))
    return operands


def _dotted(node: ast.Attribute) -> str:
    before = f"{_dotted(node.value)}." if isinstance(node.value, ast.Attribute) else ""
    return before + node.attr


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(op, _ORDERED) and (left is None or right is None):
        return False
    try:
        return bool(_COMPARISONS[type(op)](left, right))
    except TypeError:  # a text against a number
        return False
