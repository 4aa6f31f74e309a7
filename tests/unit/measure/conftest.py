import pytest

from gradwatch.measure import updates
from gradwatch.measure.fused import reads_updates


@pytest.fixture(params=["compiled", "operators"])
def route(request, monkeypatch):
    """Both routes give the same numbers."""
    if request.param == "operators":
        monkeypatch.setattr(updates, "reads_updates", lambda: False)
    elif not reads_updates():
        pytest.skip("the compiled part was not built")
    return request.param
