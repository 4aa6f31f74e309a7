"""`Run`: a record with its summary, its diagnosis and its advice, the top of the analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.analysis.diagnosis import Finding, diagnose
from gradwatch.analysis.history import RunReader
from gradwatch.analysis.recommend import Recommendation, recommend
from gradwatch.analysis.statistics.ranks import noise_scale
from gradwatch.analysis.summary import RunSummary, summarize
from gradwatch.errors import EmptyRun

if TYPE_CHECKING:
    import pandas as pd


class Run(RunReader):
    """A run in its folder, finished or still being written. Reading changes nothing.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: the folder holds no run that can be read.

    >>> run = Run(example_run)
    >>> run.summary().verdict
    'healthy'
    """

    def summary(self, optimizer: str | None = None) -> RunSummary:
        """Every number that a report shows, of one optimizer; if None, of the one with the gravest finding.

        Raises:
            EmptyRun: no step is recorded.
        """
        return summarize(self, optimizer)

    def diagnosis(self) -> tuple[Finding, ...]:
        """The findings of the run, ordered by consequence; empty where nothing was found.

        Each names what is wrong, where, the evidence, the cause and the remedy.
        """
        return diagnose(self)

    def recommend(self, optimizer: str | None = None) -> Recommendation:
        """The clipping threshold that the run should have had, or the reason why it supports none."""
        return recommend(self, optimizer)

    def noise_scale(self, optimizer: str | None = None, smoothing: float = 0.99) -> pd.Series[float]:
        """The gradient noise scale at each step, in batches of one rank; NaN where it is not known.

        McCandlish, Kaplan, Amodei et al. 2018, "An empirical model of large-batch training", appendix A.1: let ``s``
        be the mean square of the norms of the ranks' own gradients, ``b`` the norm of their mean, and ``n`` the
        number of ranks. Then ``|G|^2 = (n b^2 - s) / (n - 1)`` and ``S = (s - b^2) n / (n - 1)``, both averaged over
        steps with weights that fall by ``smoothing`` a step; the noise scale is ``S / |G|^2``. Times the batch of a
        rank it is the batch size above which more data a step helps little. It needs recorded ranks
        (``attach(..., ranks=True)`` with DistributedDataParallel, which takes the mean).
        """
        return noise_scale(self, optimizer, smoothing)

    def _repr_html_(self) -> str | None:
        """The run (its worst optimizer) in a notebook; None, and so as text, before the first step."""
        try:
            return self.summary()._repr_html_()
        except EmptyRun:
            return None
