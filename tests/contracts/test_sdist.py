"""The sdist holds what the README's `make` commands need, and its description survives on a package index."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
pytest.importorskip("hatch_fancy_pypi_readme")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The sdist as a user unpacks it."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def files_that_make_names():
    """Paths of the checkout in the Makefile: what a target depends on and what its recipe is given."""
    words = re.split(r"[\s\"';<>|()]+", (ROOT / "Makefile").read_text())
    found = set()
    for word in words:
        if "$" in word or "*" in word or not re.fullmatch(r"[\w.][\w./-]*", word):
            continue
        if (ROOT / word).exists() and word not in (".", "..", "build", "dist", "node_modules"):
            found.add(word)
    return {word for word in found if word.startswith((".ci", ".github")) or not word.startswith(".")}


def test_everything_that_make_names_is_there(unpacked):
    named = files_that_make_names()
    assert {"pyproject.toml", "constraints.txt", "hatch_build.py", "benchmarks/overhead.py"} <= named
    assert [name for name in sorted(named) if not (unpacked / name).exists()] == []


@pytest.mark.parametrize("target", ["demo", "test", "check", "test-lowest", "trackers", "coverage"])
def test_make_knows_how_to_reach_the_target(unpacked, target):
    done = subprocess.run(["make", "-n", target], cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_tests_examples_and_pages_are_there(unpacked):
    expected = [path for folder in ("tests", "examples", "docs", "dashboards") for path in tracked(folder)]
    assert len(expected) >= 100
    assert [str(path) for path in expected if not (unpacked / path).exists()] == []


def tracked(folder):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines() if (ROOT / line).exists()]


def test_nothing_that_was_built_or_cached_is_there(unpacked):
    strays = [p for p in unpacked.rglob("*") if p.suffix in (".so", ".pyc") or p.name in ("node_modules", ".cache")]
    assert strays == []


def test_links_and_pictures_of_the_description_are_absolute(unpacked):
    description = (unpacked / "PKG-INFO").read_text().partition("\n\n")[2]
    targets = re.findall(r"\]\(([^)\s]+)\)", description) + re.findall(r'src="([^"]+)"', description)
    assert len(targets) >= 10
    assert [target for target in targets if not target.startswith("https://")] == []
    # Each still names a file of the project.
    own = [t for t in targets if t.startswith(("https://github.com/gradwatch/", "https://raw.githubusercontent.com/"))]
    paths = [re.sub(r"^https://[^/]+/gradwatch/gradwatch/(blob/)?main/", "", target) for target in own]
    paths = [path.partition("#")[0] for path in paths if not path.startswith("https://")]
    assert len(paths) >= 8
    assert [path for path in paths if not (ROOT / path).exists()] == []
