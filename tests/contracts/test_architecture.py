"""docs/architecture.md maps the package: every module that is there, and none that is gone."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def mapped():
    """The modules of the page, each with its line: {"gradwatch/detect/spike.py": "one step far above ..."}."""
    found = {}
    folder = None
    for line in PAGE.splitlines():
        if heading := re.match(r"#{2,3} (.*)", line):
            folder = heading[1] if heading[1].startswith("gradwatch/") else None
        elif folder and (entry := re.match(r"- `(\w+\.py)`: (.+)", line)):
            assert folder + entry[1] not in found, f"{folder}{entry[1]} stands twice"
            found[folder + entry[1]] = entry[2]
    return found


def modules():
    return {str(path.relative_to(ROOT)).replace("\\", "/") for path in (ROOT / "gradwatch").rglob("*.py")}


def test_every_module_has_its_line():
    assert sorted(modules() - mapped().keys()) == [], "add a line for each to docs/architecture.md"


def test_no_line_is_of_a_module_that_is_gone():
    assert sorted(mapped().keys() - modules()) == [], "remove these from docs/architecture.md"


def test_a_module_with_nothing_but_a_docstring_is_said_to_be_that():
    bare = {
        str(path.relative_to(ROOT)).replace("\\", "/")
        for path in (ROOT / "gradwatch").rglob("__init__.py")
        if len(ast.parse(path.read_text(encoding="utf-8")).body) == 1
    }
    assert {name for name, line in mapped().items() if line == "nothing but its docstring."} == bare


def test_the_stages_of_the_page_are_those_of_the_import_test():
    source = ast.parse((ROOT / "tests" / "contracts" / "test_imports.py").read_text(encoding="utf-8"))
    (stages,) = (
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGES"
    )
    (sentence,) = re.findall(r"The stages,\sin\sorder:\s(.*?)\.\s", PAGE, re.DOTALL)
    assert re.findall(r"`(\w+)`", sentence) == [name for name in stages if not name.startswith("__")]
