"""Build the compiled part if there is a C compiler. Without it everything works, in several reads."""

import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("gradwatch/measure/fused.c")
LIBRARY = Path("gradwatch/measure/_fused.so")
FLAGS = [
    *("-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
    *("-shared", "-fPIC", "-pthread"),
]


class BuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "wheel" and compiled(Path(self.root)):
            build_data["artifacts"].append(str(LIBRARY))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compiled(root: Path) -> bool:
    """Compile; return whether that made a library."""
    library = root / LIBRARY
    # Two environments may be made from one checkout at the same time: the library is replaced as a whole.
    made = library.with_suffix(f".{os.getpid()}.so")
    if _compiles(root / SOURCE, made):
        made.replace(library)
        return True
    for file in (made, library):
        file.unlink(missing_ok=True)
    return False


def _compiles(source: Path, library: Path) -> bool:
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None or platform.system() not in ("Linux", "Darwin"):
        return False
    # cibuildwheel names the architecture to build for on macOS
    architecture = os.environ.get("ARCHFLAGS", "").split()
    command = [*compiler.split(), *architecture, *FLAGS, "-o", str(library), str(source), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and library.exists()
