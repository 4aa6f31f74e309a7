"""The script that measures the code base counts what it says, on a package small enough to count by hand."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ..scripts import load

pytest.importorskip("radon")
ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

FILES = {
    "gradwatch/__init__.py": "",
    "gradwatch/watch.py": '''"""Two lines
of docstring."""
from typing import TYPE_CHECKING
from gradwatch.low import Kind
if TYPE_CHECKING:
    from gradwatch.high import late

class Watch:
    limit: int = 3

    def __init__(self):
        self.a = 1  # the reader is told why
        self.a += 1
        self.b: int = 2  # noqa: X

    def is_kind(self, x):
        # a second comment
        return isinstance(x, Kind) or isinstance(x, (int, str))
''',
    "gradwatch/low.py": "class Kind:\n    pass\n\ndef f():\n    from gradwatch.high import late\n    return late\n",
    "gradwatch/high.py": "import gradwatch.low\n\ndef late(x):\n    return 1 if x and x > 2 else 0\n",
    "tests/unit/test_watch.py": "def test_a():\n    pass\n\ndef test_b():\n    pass\n",
    "dashboards/a.js": "let a = 1\nlet bb = 2\n",
    "dashboards/vendor/huge.js": "x\n" * 99,
}


@pytest.fixture
def house():
    return load("house")


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_small_package_is_counted_as_by_hand(house, checkout):
    found = {name: value for name, value, _ in house.table(checkout, collect=False)}
    assert found == {
        "most stateful class": "Watch: 3 attributes, 2 methods, 11 lines",
        "largest class": "Watch: 3 attributes, 2 methods, 11 lines",
        "radon complexity, largest": "3 (late), 2 (is_kind), 1 (__init__)",
        "functions over complexity 12": "0",
        "top level: modules, folders": "4, 0",
        "first-party imports in functions": "1",
        "import circles, those included": "one of 2 modules",
        "isinstance of own kinds: watch.py, all": "1, 1",
        "lines: package, tests, ratio": "28, 5, 0.18",
        "modules without a test file of their own": "2 of 3",
        "comments per 100 lines of code": "10.0",  # 2 for 20 lines
        "JavaScript: longest file": "2 lines (a.js)",
        "JavaScript: longest line": "10 columns (a.js)",
        "JavaScript: lint, types, unit tests": "no, no, no",
    }


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a", "c"}, "c": set()}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}}, [["a", "b", "c"], ["d", "e"]]),
    ],
)
def test_circles_are_sets_of_modules_that_reach_one_another(house, arrows, expected):
    assert sorted(house.circles(arrows)) == expected


def test_an_import_that_only_a_type_checker_sees_makes_no_circle(house, checkout):
    assert house.graph(house.sources(checkout, "gradwatch"))["gradwatch.watch"] == {"gradwatch.low"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LIMIT = 3", False),
        ("from gradwatch.low import Kind", False),
        ("def __getattr__(name):\n    return name", False),
        ("class Record:\n    field: int = 3", False),
        ("class Told(Protocol):\n    def hear(self): ...\n    def ask(self):\n        'What it asks.'", False),
        ("class Record:\n    field: int = 3\n    def double(self):\n        return 2 * self.field", True),
        ("def f():\n    return 3", True),
        ("async def f():\n    return 3", True),
    ],
)
def test_a_module_without_behaviour_needs_no_test_file(house, text, expected):
    module = house.Source(name="m", path=ROOT / "m.py", text=text)
    assert house.defines(module) is expected


def printed(root):
    command = [sys.executable, str(BENCHMARKS / "house.py"), "--no-collect", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_script_prints_its_table(checkout):
    assert len(printed(checkout)) == 14


@pytest.mark.slow
def test_the_script_prints_its_table_for_this_checkout():
    assert len(printed(ROOT)) == 14


def test_tests_are_counted(house, checkout):
    assert house.count_tests(checkout) == "2"


def sets_attributes(function):
    """The attributes that a function sets, on whatever object."""
    return sorted(
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
    )


def queries(tree):
    """Properties, and functions whose name asks something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            is_property = any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list)
            if is_property or node.name.lstrip("_").startswith(("is_", "has_", "are_", "can_", "may_")):
                yield node


def test_a_query_changes_nothing():
    found = {
        f"{path.relative_to(ROOT)}: {query.name}": sets_attributes(query)
        for path in sorted((ROOT / "gradwatch").rglob("*.py"))
        for query in queries(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(found) > 100
    assert {name: attributes for name, attributes in found.items() if attributes} == {}


def test_a_query_that_changes_something_would_be_found():
    code = "class A:\n    def is_reached(self):\n        self.at += 1\n    def put(self):\n        self.x = 1"
    (query,) = queries(ast.parse(code))
    assert sets_attributes(query) == ["at"]


MOST_COMPLEX = {"gradwatch": 12, "gradwatch.analysis.diagnosis": 17, "gradwatch.sources": 22}
"""The largest complexity of a function, by package. Rules and readers of foreign files are made of conditions."""


def limit_of(name):
    """That of the innermost package that holds the function."""
    return MOST_COMPLEX[max((package for package in MOST_COMPLEX if name.startswith(f"{package}.")), key=len)]


def test_functions_read_from_top_to_bottom(house):
    """Conditions joined by `and` and `or` count here, as they do not in ruff's C901."""
    found = {name: complexity for complexity, name in house.complexities(house.sources(ROOT, "gradwatch"))}
    assert len(found) > 3000
    assert {name: complexity for name, complexity in found.items() if complexity > limit_of(name)} == {}
