"""The project's own files agree with one another: versions, workflows, what dependabot and the templates name."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import gradwatch

ROOT = Path(__file__).parents[2]
if not (ROOT / ".github").exists():
    pytest.skip("this checkout has no .github", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
MATRIX = CI["jobs"]["test"]["strategy"]["matrix"]


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_matrix_has_every_python_that_the_classifiers_promise():
    promised = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)}
    assert set(MATRIX["python"]) == promised
    assert min(promised, key=lambda v: int(v.split(".")[1])) == PROJECT["requires-python"].removeprefix(">=")


def test_the_matrix_has_every_system_and_the_oldest_torch():
    systems = {*MATRIX["os"], *(row["os"] for row in MATRIX["include"])}
    assert {name.split("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
    (floor,) = (d.removeprefix("torch>=") for d in PROJECT["dependencies"] if d.startswith("torch>="))
    assert floor + ".0" in {row["torch"] for row in MATRIX["include"]}


def test_the_matrix_runs_what_continuous_integration_runs():
    assert ".ci/run" in [step.get("run") for step in CI["jobs"]["test"]["steps"]]


def test_the_lowest_versions_are_the_floors():
    stated = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["parquet"]]
    floors = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", one).groups() for one in stated)
    lowest = pins("constraints-lowest.txt")
    assert set(lowest) == set(floors) - {"torch"}
    assert [name for name in lowest if not (lowest[name] + ".").startswith(floors[name] + ".")] == []


# They need older versions of some packages than constraints.txt pins, so `make trackers` has an environment for them.
PINNED_APART = {"mlflow-skinny", "trackio"}


def test_every_package_that_the_project_names_is_pinned():
    named = [*PROJECT["dependencies"], *(d for group in PROJECT["optional-dependencies"].values() for d in group)]
    names = {re.match(r"[\w-]+", one)[0].lower() for one in named} - {"gradwatch"}
    pinned = {name.lower() for name in pins("constraints.txt")}
    apart = {name.lower() for name in pins("constraints-trackers.txt")}
    assert names - pinned == PINNED_APART <= apart


def test_trackers_have_a_job_of_their_own_and_only_two_pins_differ():
    assert "make trackers" in [step.get("run") for step in CI["jobs"]["trackers"]["steps"]]
    twice = {name for name in pins("constraints-trackers.txt") if name in pins("constraints.txt")}
    assert twice == {"importlib_metadata", "pillow"}, "the target leaves these lines of constraints.txt out"
    assert f"'^({'|'.join(sorted(twice))})=='" in (ROOT / "Makefile").read_text()


def test_the_version_to_cite_is_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gradwatch.__version__


def test_urls_are_of_one_project():
    places = {re.match(r"https://github\.com/[\w-]+/[\w-]+", url)[0] for url in PROJECT["urls"].values()}
    assert places == {"https://github.com/gradwatch/gradwatch"}
