"""Answers to an agent: the JSON of the reading commands, short enough for a conversation, for runs below one folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradwatch.analysis.differences import differences
from gradwatch.analysis.filters import parse_filter
from gradwatch.analysis.listing import NAMES, list_runs, sorted_rows
from gradwatch.analysis.notes import FILE_NAME as NOTES_NAME
from gradwatch.analysis.run import Run
from gradwatch.capture.listing import FOLDER as CAPTURES
from gradwatch.errors import BadArgument, RunNotFound
from gradwatch.record import SEVERITIES
from gradwatch.store import FILE_NAME
from gradwatch.views import json as json_view
from gradwatch.views.encode import dumps

MOST_TOKENS = 4000
CHARACTERS_PER_TOKEN = 3
"""An estimate that errs on the safe side: tokenizers make a token of about four characters of prose, and of fewer where
there are many digits and brackets, as in JSON."""

LEFT_OUT = "left_out"
"""The key that says how many entries of each list an answer does without."""


def tokens(text: str) -> int:
    """About how many tokens a text has.

    >>> tokens("a" * 12)
    4
    """
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def fitted(answer: dict[str, Any], most: int = MOST_TOKENS) -> str:
    """An answer as JSON of at most ``most`` tokens. It shortens the longest lists and says so.

    >>> print(fitted({"run": "a", "events": [{"step": step} for step in range(9)]}, most=30))
    {"run": "a", "events": [{"step": 0}, {"step": 1}, {"step": 2}], "left_out": {"events": 6}}
    """
    found, left_out = dict(answer), dict[str, int]()
    while tokens(text := dumps(found | ({LEFT_OUT: left_out} if left_out else {}), indent=None)) > most:
        sizes = {name: len(dumps(value, indent=None)) for name, value in found.items()}
        lists = [name for name, value in found.items() if isinstance(value, list) and value]
        longest = max(lists or sizes, key=lambda name: sizes[name])
        if longest not in lists:
            del found[longest]  # for example a config of thousands of settings
            left_out[longest] = 1
            continue
        # A tenth at a time: a list of thousands is cut in a few rounds.
        cut = max(1, len(found[longest]) // 10)
        found[longest] = found[longest][:-cut]
        left_out[longest] = left_out.get(longest, 0) + cut
    return text


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers about the runs below a folder. Nothing is written, and nothing outside of it is read.

    Runs are named by their path below the folder, as `list_runs` gives it.

    >>> import json
    >>> json.loads(Answers(example_run.parent).check_run("example"))["verdict"]
    'healthy'
    >>> Answers(example_run.parent).check_run("../other")
    Traceback (most recent call last):
    gradwatch.errors.RunNotFound: '../other' is not a run below the served folder. (run-not-found)
    """

    folder: Path

    def list_runs(self, filter: str = "", sort: str = "age", most: int = 20) -> str:
        """List recorded trainings: verdict (healthy, warning, critical), first fault and its step, loss, settings.

        Begin here. `filter` is an expression such as "verdict != 'healthy' and lr > 1e-3"; `sort` names a column, with
        a minus for the largest first. `age` puts the youngest first.
        """
        name = sort.removeprefix("-")
        if name not in NAMES or name == "config":
            raise BadArgument(f"sort is {sort!r}; expected one of {', '.join(NAMES)}, or -NAME.")
        now = time.time()
        chooses = parse_filter(filter, NAMES) if filter else None
        rows = [row for row in list_runs(self.folder, keep_index=False) if self._is_below(row.name)]
        if chooses is not None:
            rows = [row for row in rows if chooses(row.as_dict() | {"written": now - row.written})]
        rows = sorted_rows(rows, NAMES[name], descending=sort.startswith("-") != (name == "age"))
        told = [
            {key: value for key, value in row.as_dict().items() if value not in (None, "", [], {})}
            | {"age_seconds": round(now - row.written)}
            for row in rows[: max(1, most)]
        ]
        return fitted({"count": len(rows), "runs": told})

    def check_run(self, run: str) -> str:
        """Say what is wrong with a training, why, what to change and how to confirm it.

        Each finding has a stable code, certainty (shown, likely, possible), evidence, cause, remedy and confirm. A run
        without a finding of warning or worse is healthy.
        """
        summary = self._open(run).summary()
        worst = [f for f in summary.findings if f.severity != "info"]
        faults = [f"{f.severity} {f.code}: {f.what}" for f in worst]
        return fitted(json_view.check(summary, faults) | {"reason": summary.reason, "next": summary.next})

    def read_events(self, run: str, severity: str = "warning", most: int = 20) -> str:
        """List what the detectors saw, with step, parameter, origin and rank. `severity`: info, warning or critical."""
        if severity not in SEVERITIES:
            raise BadArgument(f"severity is {severity!r}; expected one of {', '.join(SEVERITIES)}.")
        names: tuple[str, ...] = SEVERITIES
        events = [e for e in self._open(run).events() if names.index(e.severity) >= names.index(severity)]
        return fitted({"count": len(events), "events": json_view.events(events[: max(1, most)])})

    def read_report(self, run: str, optimizer: str = "", layers: int = 8) -> str:
        """Read the numbers of a training: gradient norm, clipping, loss, learning rate, the most relevant layers."""
        summary = self._open(run).summary(optimizer or None)
        report = json_view.report(summary)
        told = [report["layers"][at] for at in summary.most_relevant[: max(0, layers)]]
        several = {name: report.pop(name) for name in ("findings", "events", "seams", "replays", "ranks")}
        counts = {f"{name}_count": len(value) for name, value in several.items() if value}
        return fitted(report | {"layers": told, "layer_count": len(summary.layers)} | counts)

    def recommend_threshold(self, run: str, optimizer: str = "") -> str:
        """Recommend a clipping threshold with its reasons and a what-if table, or say why the run supports none."""
        return fitted(json_view.recommendation(self._open(run).recommend(optimizer or None)))

    def compare_runs(self, first: str, second: str) -> str:
        """Say where two trainings first differ (step, what, parameters), in which settings, and how each ended."""
        runs = [self._open(first), self._open(second)]
        reports = json_view.comparison([run.summary() for run in runs], [differences(runs[0], runs[1])])
        keys = ("run", "verdict", "reason", "steps", "total_norm", "loss", "clipping", "learning_rate", "config")
        told = [{key: report[key] for key in keys} for report in reports]
        return fitted({"runs": told, "differs": reports[1]["differs"]})

    def _open(self, name: str) -> Run:
        if not self._is_below(name):
            raise RunNotFound(f"{name!r} is not a run below the served folder.")
        return Run(self.folder / name)

    def _is_below(self, name: str) -> bool:
        """Whether a name leads to a run below the folder, and none of its files leads out of it."""
        root = self.folder.resolve()
        try:
            run = (root / name).resolve()
            is_run = run.is_relative_to(root) and (run / FILE_NAME).is_file()
            return is_run and all(file.resolve().is_relative_to(root) for file in _own_files(run))
        except (OSError, ValueError, RuntimeError):  # a name with a zero byte; links in a circle
            return False


def _own_files(run: Path) -> Iterator[Path]:
    """What gradwatch reads of a run's folder."""
    yield from run.glob(f"{FILE_NAME}*")
    yield run / NOTES_NAME
    yield run / CAPTURES
    yield from (run / CAPTURES).rglob("*")
