"""`Run`: a recorded run with its summary, diagnosis and advice, the top of the analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.analysis.diagnosis import Finding, diagnose
from gradwatch.analysis.display import as_page
from gradwatch.analysis.history import RunReader
from gradwatch.analysis.notebook_page import NotebookPage
from gradwatch.analysis.recommend import Recommendation, recommend
from gradwatch.analysis.statistics.owners import GROUPINGS, Grouping, group_of, grouped, shares_of
from gradwatch.analysis.statistics.ranks import noise_scale
from gradwatch.analysis.summary import RunSummary, summarize
from gradwatch.errors import BadArgument, EmptyRun

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
        """Every number that a report shows, for one optimizer.

        Args:
            optimizer: its name; None: the one with the most serious finding.

        Raises:
            EmptyRun: no step is recorded.
            BadArgument: the run has no such optimizer.

        >>> Run(example_run).summary().total_norm.max_step
        0
        """
        return summarize(self, optimizer)

    def diagnosis(self) -> tuple[Finding, ...]:
        """The findings of the run, the most serious first; empty if there are none.

        Each names what is wrong, where, the evidence, the cause and the remedy.

        >>> Run(example_run).diagnosis()
        ()
        """
        return diagnose(self)

    def recommend(self, optimizer: str | None = None) -> Recommendation:
        """The clipping threshold that the run should have had, or the reason for giving none.

        Args:
            optimizer: its name; None: the one that `summary` is about.

        Raises:
            EmptyRun: no step is recorded.
            BadArgument: the run has no such optimizer.
        """
        return recommend(self, optimizer)

    def norm_shares(
        self, step: int | None = None, optimizer: str | None = None, *, by: Grouping = "parameter"
    ) -> pd.DataFrame:
        """Each part's share of the squared total norm, (steps, groups); the shares of a step add up to 1.

        NaN if the norm of a step is 0 or not finite.

        Args:
            step: only this one; None: all.
            optimizer: its name; None: the first one.
            by: "parameter"; "kind", the parameters of the same place in every layer together ("attn.c_proj");
                or "depth", those of one layer together ("h.11"). Both go by the names of the parameters.

        Raises:
            BadArgument: there is no such group or step.

        >>> Run(example_run).norm_shares(step=0).round(2).to_dict("index")
        {0: {'rnn.weight': 0.64, 'out.weight': 0.36}}
        """
        if by not in GROUPINGS:
            raise BadArgument(f"by is {by!r}; expected one of {', '.join(GROUPINGS)}.")
        name = self.optimizer(optimizer)
        norms = self.layers("norm", name)
        if step is not None:
            if step not in norms.index:
                raise BadArgument(
                    f"step is {step!r}; expected one whose norms were recorded: `Run.layers('norm').index`."
                )
            norms = norms.loc[[step]]
        infos = {info.name: info for info in self.parameters(name)}
        shares = shares_of(norms)
        return grouped(shares, [group_of(infos[column], by) for column in shares.columns])

    def noise_scale(self, optimizer: str | None = None, smoothing: float = 0.99) -> pd.Series[float]:
        """The gradient noise scale at each step, in micro-batches, or in batches of one rank; NaN where not known.

        McCandlish, Kaplan, Amodei et al. 2018, "An empirical model of large-batch training" (arXiv:1812.06162),
        appendix A.1: let ``s`` be the squared norm of the gradient of one batch, ``b`` that of the mean over ``n``
        such batches. Then ``|G|^2 = (n b - s) / (n - 1)`` and ``S = (s - b) n / (n - 1)``, both averaged over steps
        with weights that decay by ``smoothing`` a step; the noise scale is ``S / |G|^2``. Multiplied by the size of one
        batch, it estimates the batch size above which more data per step helps little.

        In one process the batches are the micro-batches of a step: the first one is compared with all of them
        (`accumulation`). If ranks are recorded (``attach(..., ranks=True)`` with DistributedDataParallel, which takes
        the mean), they are the batches of the ranks, and ``s`` is the mean over ranks. Without either it is unknown.

        The estimate assumes independent micro-batches of equal size whose losses are means. It equals the critical
        batch size of a training only under strong assumptions (Merrill et al. 2025, "Critical batch size revisited",
        arXiv:2505.23971), so read its trend rather than its value.
        """
        return noise_scale(self, optimizer, smoothing)

    def page(self, optimizer: str | None = None, height: int = 900) -> NotebookPage:
        """The page of `gradwatch report --html` in a notebook: put it last in a cell.

        Its script runs only where the notebook is trusted. Elsewhere show the run itself, which needs none.

        Args:
            optimizer: the one to show; None: the four with the most serious findings.
            height: of the frame, in pixels.

        Raises:
            EmptyRun: no step is recorded yet.
            BadArgument: the run has no such optimizer.

        >>> Run(example_run).page(height=600)
        NotebookPage(height=600)
        """
        return as_page(self, optimizer, height)

    def _repr_html_(self) -> str | None:
        """The run (its worst optimizer) in a notebook; None, and so as text, before the first step."""
        try:
            return self.summary()._repr_html_()
        except EmptyRun:
            return None
