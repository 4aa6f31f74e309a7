"""Names that the doctests use."""

from pathlib import Path

import pytest

from gradwatch.testing import stream, write_run


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path
    doctest_namespace["example_run"] = write_run(tmp_path / "example", stream([1.0] * 400))
