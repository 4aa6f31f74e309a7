"""Captures of single steps in memory, made by the benchmark's keeper, which knows nothing of the replay."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parents[3] / "benchmarks" / "blackbox")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
