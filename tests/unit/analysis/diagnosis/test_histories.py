"""Records that people bring: norms after clipping, and facts that are not known."""

from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.testing import steady

from .made import calm, codes, run_of, the


def test_a_history_does_not_know_what_it_does_not_hold(tmp_path):
    write(History([Point(10 * i, n) for i, n in enumerate(steady(500))], "a file"), tmp_path / "run")
    from gradwatch import Run

    run = Run(tmp_path / "run")
    assert codes(run) == []
    clipping = run.summary().clipping
    assert (clipping.kind, clipping.is_known) == (None, False)
    assert run_of(tmp_path / "own", calm()).summary().clipping.is_known


def test_norms_after_clipping_are_called_so(tmp_path):
    from gradwatch import Run

    points = [Point(i, min(n, 1.0)) for i, n in enumerate(steady(300))]
    write(History(points, "a file"), tmp_path / "after", moment="after clipping")
    assert the(Run(tmp_path / "after"), "norms-after-clipping").severity == "info"
    assert Run(tmp_path / "after").summary().moment == "after clipping"
    write(History(points, "a file"), tmp_path / "before", moment="before clipping")
    assert "norms-after-clipping" not in codes(Run(tmp_path / "before"))
