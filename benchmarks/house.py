"""The shape of the code base in numbers, for any checkout of gradwatch.

    python benchmarks/house.py            # this checkout
    python benchmarks/house.py OTHER      # another one, e.g. an older commit in a git worktree
    python benchmarks/house.py -v         # also name what was counted

The script reads sources and imports none of them, so one copy of it measures every commit the same way. Only the
number of tests needs pytest, which collects them in the checkout it is given.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from radon.complexity import cc_visit_ast
from radon.visitors import Function

PACKAGE = "gradwatch"
# Functions of either kind.
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Comments that speak to a tool, not to a reader.
PRAGMA = re.compile(r"#\s*(noqa|type:|pragma|ruff:|mypy:|fmt:|!)")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One module: its dotted name, its text and its tree."""

    name: str
    path: Path
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The counts of one class."""

    name: str
    attributes: int
    methods: int
    lines: int

    def __str__(self) -> str:
        return f"{self.name}: {self.attributes} attributes, {self.methods} methods, {self.lines} lines"


def sources(root: Path, folder: str) -> list[Source]:
    found = []
    for path in sorted((root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(name=name, path=path, text=text))
    return found


# ------------------------------------------------------------------------------------------ classes


def shape(node: ast.ClassDef) -> Shape:
    """Count the attributes that a class declares or that its methods set on `self`, its methods and its lines."""
    declared = {
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    assigned = {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "self"
    }
    methods = [statement for statement in node.body if isinstance(statement, FUNCTIONS)]
    return Shape(
        name=node.name,
        attributes=len(declared | assigned),
        methods=len(methods),
        lines=(node.end_lineno or node.lineno) - node.lineno + 1,
    )


def is_record(node: ast.ClassDef) -> bool:
    """Whether a class is a dataclass, a NamedTuple or a TypedDict: it has fields, but no state that changes."""
    marks = " ".join(ast.unparse(part) for part in (*node.decorator_list, *node.bases))
    return any(word in marks for word in ("dataclass", "NamedTuple", "TypedDict"))


def classes(modules: list[Source]) -> list[ast.ClassDef]:
    return [node for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]


# ------------------------------------------------------------------------------------------ imports


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield each import that can run, and whether it is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        elif not is_type_checking(child):
            yield from imports(child, inside=inside or isinstance(child, FUNCTIONS))


def targets(statement: ast.Import | ast.ImportFrom, known: set[str]) -> set[str]:
    """Return the modules of the package that a statement imports."""
    if isinstance(statement, ast.Import):
        names = {alias.name for alias in statement.names}
    else:
        module = statement.module or ""
        # `from package import module` imports the module; `from module import name` only its module.
        below = {f"{module}.{alias.name}" for alias in statement.names}
        names = (below & known) | ({module} if below - known else set())
    return names & known


def deferred(modules: list[Source]) -> list[str]:
    """List the first-party imports inside functions, as "module: statement"."""
    return [
        f"{module.name}: {ast.unparse(statement)}"
        for module in modules
        for statement, inside in imports(module.tree)
        if inside and any(name.split(".")[0] == PACKAGE for name in named(statement))
    ]


def named(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return [statement.module or ""]


def graph(modules: list[Source]) -> dict[str, set[str]]:
    known = {module.name for module in modules}
    return {
        module.name: {
            target for statement, _ in imports(module.tree) for target in targets(statement, known) - {module.name}
        }
        for module in modules
    }


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Find sets of modules that all import one another, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(arrows[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            component, stack[at:] = stack[at:], []
            if len(component) > 1:
                found.append(sorted(component))

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


# ------------------------------------------------------------------------------- complexity, comments


def complexities(modules: list[Source]) -> list[tuple[int, str]]:
    """Return radon's cyclomatic complexity of every function and method, the largest first."""
    found = {
        (part.complexity, f"{module.name}.{part.fullname}")
        for module in modules
        for block in cc_visit_ast(module.tree)
        for part in (block, *getattr(block, "methods", ()), *getattr(block, "closures", ()))
        if isinstance(part, Function)
    }
    return sorted(found, reverse=True)


def documented(tree: ast.Module) -> set[int]:
    """Return the lines of string statements, which are mostly docstrings."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def comments_and_code(module: Source) -> tuple[int, int]:
    """Count comments for readers, and lines of code: without blank lines, docstrings and comment lines."""
    prose = documented(module.tree)
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
    comments, code = 0, set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            comments += not PRAGMA.match(token.string)
        elif token.type not in skipped and token.start[0] not in prose:
            code |= set(range(token.start[0], token.end[0] + 1))
    return comments, len(code)


# -------------------------------------------------------------------------------------------- kinds


def own_isinstance(modules: list[Source], of: Callable[[Source], bool]) -> list[str]:
    """List the isinstance tests on classes that the package itself defines."""
    own = {node.name for node in classes(modules)}
    found = []
    for module in filter(of, modules):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                asked |= {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
                if asked & own:
                    found.append(f"{module.name}:{node.lineno}: {ast.unparse(node)}")
    return found


# -------------------------------------------------------------------------------------------- tests


def defines(module: Source) -> bool:
    """Whether a module has behaviour to test: a function, or a class with a method that does something.

    Names that are re-exported, also by the module's `__getattr__`, records of fields alone and protocols have none.
    """
    return any(
        node.name not in ("__getattr__", "__dir__") and acts(node)
        if isinstance(node, FUNCTIONS)
        else isinstance(node, ast.ClassDef) and any(isinstance(part, FUNCTIONS) and acts(part) for part in node.body)
        for node in module.tree.body
    )


def acts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the body of a function is more than a docstring and `...` or `pass`."""
    return not all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in function.body
    )


def without_tests(root: Path, modules: list[Source]) -> list[str]:
    """List the modules without a test file test_NAME.py or test_NAME_*.py in the folder that mirrors theirs.

    The test file of an `__init__` is named after its folder. In a checkout without tests/unit the name alone decides.
    """
    mirrored = (root / "tests" / "unit").is_dir()
    missing = []
    for module in filter(defines, modules):
        inside = module.path.relative_to(root / PACKAGE)
        stem, folder = inside.stem, inside.parent
        if stem == "__init__":
            stem = inside.parent.name or PACKAGE
        places = [root / "tests" / "unit" / folder] if mirrored else [root / "tests"]
        if inside.stem == "__init__" and mirrored:
            places.append(root / "tests" / "unit" / folder.parent)
        stem = stem.strip("_")
        named = [
            file
            for place in places
            for pattern in (f"test_{stem}.py", f"test_{stem}_*.py")
            for file in (place.glob(pattern) if mirrored else place.rglob(pattern))
        ]
        if not named:
            missing.append(module.name)
    return missing


def count_tests(root: Path) -> str:
    """Ask pytest how many tests it collects, doctests included."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)(?:/\d+)? tests? collected(?:.*?(\d+) error)?", done.stdout)
    if found is None:
        return "not known: pytest collected nothing"
    return f"{int(found[1]):,}" + (f", {found[2]} files could not be collected" if found[2] else "")


# --------------------------------------------------------------------------------------- JavaScript


def scripts(root: Path) -> list[Path]:
    return [path for path in sorted((root / "dashboards").rglob("*.js")) if "vendor" not in path.parts]


def has_any(root: Path, *patterns: str) -> str:
    for pattern in patterns:
        for path in root.glob(pattern):
            if not {"node_modules", ".venv"} & set(path.relative_to(root).parts):
                return "yes"
    return "no"


def javascript(root: Path) -> Iterator[tuple[str, str, list[str]]]:
    lengths = {path.name: path.read_text(encoding="utf-8").splitlines() for path in scripts(root)}
    name, lines = max(lengths.items(), key=lambda item: len(item[1]))
    yield "JavaScript: longest file", f"{len(lines)} lines ({name})", [f"{n}: {len(t)}" for n, t in lengths.items()]
    width, where = max((len(line), name) for name, lines in lengths.items() for line in lines)
    yield "JavaScript: longest line", f"{width} columns ({where})", []
    linted = has_any(root, "biome.json*", "*/biome.json*", "eslint.config.*", "*/eslint.config.*")
    typed = has_any(root, "tsconfig*.json", "*/tsconfig*.json", "jsconfig*.json", "*/jsconfig*.json")
    tested = has_any(root, "dashboards/**/*.test.*js", "tests/**/*.test.*js", "tests/**/test_*.*js")
    yield "JavaScript: lint, types, unit tests", f"{linted}, {typed}, {tested}", []


# -------------------------------------------------------------------------------------------- table


def structure(root: Path, modules: list[Source]) -> Iterator[tuple[str, str, list[str]]]:
    nodes = classes(modules)
    stateful = sorted((shape(node) for node in nodes if not is_record(node)), key=lambda s: s.attributes, reverse=True)
    largest = sorted(map(shape, nodes), key=lambda s: s.lines, reverse=True)
    yield "most stateful class", str(stateful[0]), [str(one) for one in stateful[:10]]
    yield "largest class", str(largest[0]), [str(one) for one in largest[:10]]
    radon = complexities(modules)
    top = ", ".join(f"{n} ({name.rpartition('.')[2]})" for n, name in radon[:3])
    yield "radon complexity, largest", top, [f"{n} {name}" for n, name in radon[:20]]
    yield "functions over complexity 12", str(sum(n > 12 for n, _ in radon)), []
    flat = sorted(path.name for path in (root / PACKAGE).glob("*.py"))
    folders = sorted(path.parent.name for path in (root / PACKAGE).glob("*/__init__.py"))
    yield "top level: modules, folders", f"{len(flat)}, {len(folders)}", [*flat, *folders]
    late = deferred(modules)
    yield "first-party imports in functions", str(len(late)), late
    rings = circles(graph(modules))
    told = "none" if not rings else ", ".join(f"one of {len(ring)} modules" for ring in rings)
    yield "import circles, those included", told, [" ".join(ring) for ring in rings]
    watch = own_isinstance(modules, lambda module: module.path.name == "watch.py")
    every = own_isinstance(modules, lambda module: True)
    yield "isinstance of own kinds: watch.py, all", f"{len(watch)}, {len(every)}", every


def words(root: Path, modules: list[Source], tests: list[Source]) -> Iterator[tuple[str, str, list[str]]]:
    code, test = (sum(module.lines for module in part) for part in (modules, tests))
    yield "lines: package, tests, ratio", f"{code:,}, {test:,}, {test / code:.2f}", []
    bare = without_tests(root, modules)
    of = sum(map(defines, modules))
    yield "modules without a test file of their own", f"{len(bare)} of {of}", bare
    counted = [comments_and_code(module) for module in modules]
    share = 100 * sum(c for c, _ in counted) / sum(n for _, n in counted)
    yield "comments per 100 lines of code", f"{share:.1f}", []


def table(root: Path, *, collect: bool) -> Iterator[tuple[str, str, list[str]]]:
    modules, tests = sources(root, PACKAGE), sources(root, "tests")
    yield from structure(root, modules)
    yield from words(root, modules, tests)
    yield from javascript(root)
    if collect:
        yield "tests, doctests included", count_tests(root), []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).parents[1], help="a checkout")
    parser.add_argument("-v", "--verbose", action="store_true", help="name what was counted")
    parser.add_argument("--no-collect", action="store_true", help="leave out the number of tests, which takes longest")
    options = parser.parse_args()
    for name, value, details in table(options.path.resolve(), collect=not options.no_collect):
        print(f"{name:<42}{value}")
        for line in details if options.verbose else ():
            print(f"    {line}")


if __name__ == "__main__":
    main()
