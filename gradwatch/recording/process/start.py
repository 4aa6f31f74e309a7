"""The file that the recorder's process runs. It imports the package that started it, and nothing else beside it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])


def find_package() -> None:
    """Let the package that this file belongs to be imported, whatever else is called so."""
    found = importlib.util.find_spec("gradwatch")
    if found is None or found.origin is None or not str(Path(found.origin).resolve()).startswith(ROOT):
        sys.path.insert(0, ROOT)


if __name__ == "__main__":
    find_package()

    from gradwatch.recording.process.serve import serve

    serve(int(sys.argv[1]))
