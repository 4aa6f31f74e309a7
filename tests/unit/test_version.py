"""The version has one place, from which the build and the release read it as text."""

import re
import tomllib
from pathlib import Path

import gradwatch
from gradwatch.version import __version__

ROOT = Path(__file__).parents[2]


def test_it_is_the_version_of_the_package():
    assert gradwatch.__version__ == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_build_and_the_release_read_this_file():
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{__version__}"' in (ROOT / read).read_text().splitlines()
    assert f'" {read}\n' in (ROOT / ".github" / "workflows" / "release.yml").read_text()
