"""A package imports a module when one of its names is first used."""

import subprocess
import sys

import pytest

from gradwatch.late import late_names

PACKAGES = ["capture", "clip", "distributed", "store"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_there_and_listed(package):
    module = __import__(f"gradwatch.{package}", fromlist=["__all__"])
    assert module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_before_it_is_asked(package):
    code = f"import gradwatch.{package}, sys; print(*(m for m in sys.modules if m.startswith('gradwatch.{package}.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_name_that_a_package_has_not_is_an_attribute_error():
    get, _ = late_names("gradwatch", {"Event": "record"})
    with pytest.raises(AttributeError, match="module 'gradwatch' has no attribute 'Nothing'"):
        get("Nothing")
