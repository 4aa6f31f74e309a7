"""Names for the doctests, and one thread per process, because several processes run side by side."""

import gc
import importlib.util
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from gradwatch.testing import stream, write_run

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Its import tells the user to install Keras, which the development set does not hold.
collect_ignore = [] if importlib.util.find_spec("keras") else ["gradwatch/integrations/keras.py"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported and tests are found: a million objects that all stay.

    Collections during the tests pass over them.
    """
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries free what they have at the end, or complain


@pytest.fixture(autouse=True)
def _names_for_doctests(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        folder: Path = tmp_path_factory.mktemp("doctest")
        doctest_namespace["tmp_path"] = folder
        if any("example_run" in example.source for example in request.node.dtest.examples):
            doctest_namespace["example_run"] = write_run(folder / "example", stream([1.0] * 400))
