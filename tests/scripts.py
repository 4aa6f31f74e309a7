"""Loads scripts of benchmarks/ and docs/, which are no packages, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """Load benchmarks/NAME.py."""
    return load_file(BENCHMARKS / f"{name}.py")


def load_file(file: Path) -> ModuleType:
    """Load a script; a script beside it, which it imports, is found as when it runs.

    Its folder comes last on the path, so that no script stands in for a library of the same name.
    """
    loaded = sys.modules.get(file.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
