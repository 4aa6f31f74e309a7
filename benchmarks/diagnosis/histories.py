"""The findings in public histories, which were not made for a test.

    python benchmarks/diagnosis/histories.py FOLDER            # prints the table for each half
    python benchmarks/diagnosis/histories.py FOLDER fifth      # of the halves named

`histories.json` lists public histories that have a gradient norm in each row: trainer states, event files, offline
files of W&B, logs, and tables from public threads, with labels that were given by eye, from tables of losses and
norms, before gradwatch was asked. The files are other people's and are not kept here: FOLDER holds each by its id,
with the ending that it had, and a file that is missing is said to be. A file that is refused tells nothing.
Of the first two halves, and of the two of the sixth and of the seventh round, by the first digit of their id, one was
left alone until the rule was committed; those of the fourth and the fifth round were collected and labelled after the
rules of their round were committed. Those of the eighth round are one part, labelled before gradwatch judged any of
them: a lone spike there is a row at eight times the medians of the 20 rows before and after it or more, and twice as
high as any other of them that is not a lone spike; a history with such rows in one of 20 has none that is lone.
The ninth round is one part too, labelled in the same way after the rules of that day.
The tenth round is one part, labelled in the same way and committed before the rules of its day were.
The eleventh round is one part, labelled in the same way after the rules of its day: value-based RL by the return beside
the loss too, where the file has it, because its loss rises with the values.
The twelfth round is one part, labelled in the same way by someone who had not read the rules, while those of its day
were being written. The thirteenth is one part too, labelled in the same way: supervised and language-model trainings,
most of them, and short reports of trainings that ended badly. The fourteenth is one part, labelled in the same way:
long logs, trainings of several agents that were lost, and spikes, most of them. The fifteenth is one part, labelled in
the same way, from projects that no earlier round lists, most of them: GRPO, fine-tunings, and sweeps of rates. The
sixteenth is one part, labelled in the same way: owners of the first half of the alphabet and threads, and trainings of
several agents most of its bad ends. The seventeenth is one part, labelled in the same way: owners of the other half.
The eighteenth is one part, labelled in the same way, with little RL of several agents.
The nineteenth is one part of 36 sources that no earlier round has. 22 of its labels were called doubtful before it
was judged.
The twentieth is one part of 49 sources that no earlier round has. 51 of its 64 histories have a loss and no gradient
norm. 14 of its labels were called doubtful before it was judged.
The twenty-first has two parts, collected apart, of owners of the two halves of the alphabet: on 95 histories the rules
of its day were tuned; the 83 others, of 62 sources that no earlier round has, were not judged until these rules were
committed. Doubtful ones were left out of these. So they were of the twenty-second: 51 of 43 sources, of which 7 have a
gradient norm; 27 of its 32 healthy ones were drawn from 94.

A false warning is a finding of warning or worse over a history labelled healthy. A bad end is told when a finding of
warning or worse, other than that the history is short, stands over it. A lone spike is told when an
event of any severity, or a finding, begins within two rows of it, or a finding lists it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradwatch import Run
from gradwatch.analysis.diagnosis import Finding
from gradwatch.errors import GradwatchError
from gradwatch.sources import read, write

HERE = Path(__file__).parent
LISTS = ("Every warning", "Bad ends that are not told", "Spikes that are not told", "Refused")


def told_spikes(findings: Sequence[Finding]) -> list[int]:
    """The steps that findings about spikes list as evidence: they name 30 at most."""
    texts = [str(f.evidence["steps"].value) for f in findings if f.code in ("spike", "repeated-spikes")]
    return [int(step) for text in texts for step in text.split(", ") if step.isdecimal()]


@dataclass
class Table:
    """The counts of one half."""

    histories: int = 0
    rows: int = 0
    false: int = 0
    bad: int = 0
    bad_told: int = 0
    spikes: int = 0
    spikes_told: int = 0
    short: int = 0
    said: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in LISTS})

    def add(self, entry: dict[str, Any], file: Path) -> None:
        """Judge one history and count what is said of it."""
        self.histories += 1
        named = f"- {entry['id']} ({entry['rows']} rows)"
        try:
            findings, starts = judged(file)
        except GradwatchError as error:
            self.lines["Refused"].append(f"{named}: {str(error).partition('. ')[0]}")
            findings, starts = (), []
        alarms = [f for f in findings if f.severity != "info"]
        if entry["label"] == "bad":
            told = any(f.code != "too-short" for f in alarms)
            self.bad += 1
            self.bad_told += told
            self.lines["Bad ends that are not told"] += [] if told else [f"{named}: {entry['note']}"]
            return
        if entry["label"] == "short":
            self.short += 1
            self.said += any(f.code == "too-short" for f in findings)
            alarms = [f for f in alarms if f.code != "too-short"]
        self.rows += entry["rows"]
        self.false += len(alarms)
        self.lines["Every warning"] += [f"{named}: {f.code}, {f.severity}: {f.what}" for f in alarms]
        for step in entry["spikes"]:
            told = any(abs(at - step) <= 2 * entry["every"] for at in starts)
            self.spikes += 1
            self.spikes_told += told
            self.lines["Spikes that are not told"] += [] if told else [f"{named}: step {step}"]

    def __str__(self) -> str:
        per = 1e4 * self.false / max(1, self.rows)
        return (
            f"| {self.histories} | {self.rows} | {self.false} | {per:.1f} | {self.bad} | {self.bad_told} |"
            f" {self.spikes} | {self.spikes_told} | {self.short} | {self.said} |"
        )


def judged(file: Path) -> tuple[tuple[Finding, ...], list[int]]:
    """The findings, and the steps that events and findings name."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "run"
        write(read([file]), path)
        run = Run(path)
        findings, events = run.diagnosis(), run.events()
    starts = [event.step for event in events] + [f.steps[0] for f in findings if f.steps]
    return findings, starts + told_spikes(findings)


def main(folder: Path, halves: Sequence[str]) -> None:
    listed = json.loads((HERE / "histories.json").read_text())
    files = {file.stem: file for file in folder.iterdir() if file.is_file()}
    wanted = [entry for entry in listed if not halves or entry["half"] in halves]
    present = [entry for entry in wanted if entry["id"] in files]
    print(f"# Public histories: {len(present)} of {len(wanted)} present\n")
    print(
        "| half | histories | rows | false warnings | per 10,000 rows | bad ends | told | spikes | told | short"
        " | said to be |"
    )
    print("|" + "---|" * 11)
    tables = {half: Table() for half in dict.fromkeys(entry["half"] for entry in wanted)}
    for entry in present:
        tables[entry["half"]].add(entry, files[entry["id"]])
    for half, table in tables.items():
        print(f"| {half} {table}")
    for name in LISTS:
        print(f"\n{name}:\n")
        print("\n".join(line for table in tables.values() for line in table.lines[name]) or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
