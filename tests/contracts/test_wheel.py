"""The wheel has the compiled part if there is a compiler, and measures the same numbers without it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("gradwatch", "dashboards", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
MEASURES = """
import torch, gradwatch.measure.fused as fused
from gradwatch.measure import measure
print(fused.__file__, fused.is_available(), measure([torch.tensor([3.0, 4.0, 0.0])]).collect()["norm"][0])
"""


def build(tmp_path, compiler):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, tree)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        tree,
    ]
    env = {k: v for k, v in os.environ.items() if k != "CC"} | ({"CC": compiler} if compiler else {})
    subprocess.run(command, check=True, env=env, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    found = subprocess.run(
        [sys.executable, "-c", MEASURES],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
    ).stdout.split()
    assert Path(found[0]).is_relative_to(tmp_path / "installed")
    carried = tmp_path / "installed" / "gradwatch" / "dashboards"
    assert (carried / "tab.js").exists()
    assert (carried / "vendor" / "uplot" / "LICENSE").exists()
    return wheel.name, found[1:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="there is no C compiler")
def test_with_a_compiler_the_wheel_carries_the_compiled_part(tmp_path):
    name, found = build(tmp_path, None)
    assert "py3-none-linux" in name
    assert found == ["True", "5.0"]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_compiler_the_wheel_is_pure_and_measures_the_same(tmp_path, compiler):
    name, found = build(tmp_path, compiler)
    assert name.endswith("py3-none-any.whl")
    assert found == ["False", "5.0"]
