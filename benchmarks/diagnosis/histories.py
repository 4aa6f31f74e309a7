"""The findings in public histories, which were not made for a test.

    python benchmarks/diagnosis/histories.py FOLDER            # prints the table for each half

`histories.json` lists `trainer_state.json` files of public repositories that have a gradient norm in
each row, with labels that were given by eye, from tables of losses and norms, before gradwatch was asked.
The files are other people's and are not kept here: FOLDER holds each as `<id>.json`, and a file that is
missing is said to be. Of the first two halves, by the first digit of their id, one was left alone until the rule
was committed; those of the fourth and the fifth round were collected and labelled after the rules of their round were
committed.

A false warning is a finding of warning or worse over a history labelled healthy. A bad end is told when a finding of
warning or worse, other than that the history is short, stands over it. A lone spike is told when an
event of any severity, or a finding, begins within two rows of it, or a finding lists it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gradwatch import Run
from gradwatch.analysis.diagnosis import Finding
from gradwatch.cli.signatures import app

HERE = Path(__file__).parent


def told_spikes(findings: Sequence[Finding]) -> list[int]:
    """The steps that findings about spikes list as evidence: they name five at most."""
    texts = [str(f.evidence["steps"].value) for f in findings if f.code in ("spike", "repeated-spikes")]
    return [int(step) for text in texts for step in text.split(", ") if step.isdecimal()]


def main(folder: Path) -> None:
    listed = json.loads((HERE / "histories.json").read_text())
    present = [entry for entry in listed if (folder / f"{entry['id']}.json").exists()]
    print(f"# Public histories: {len(present)} of {len(listed)} present\n")
    print(
        "| half | histories | rows | false warnings | per 10,000 rows | bad ends | told | spikes | told | short"
        " | said to be |"
    )
    print("|" + "---|" * 11)
    lines, missed = [], []
    for half in dict.fromkeys(entry["half"] for entry in listed):
        rows = false = spikes = told = short = said = bad = bad_told = 0
        entries = [entry for entry in present if entry["half"] == half]
        for entry in entries:
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / "run"
                with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                    app(["import", str(folder / f"{entry['id']}.json"), str(path)], obj=[])
                run = Run(path)
                findings, events = run.diagnosis(), run.events()
            alarms = [f for f in findings if f.severity != "info"]
            if entry["label"] == "bad":
                bad += 1
                named = [f for f in alarms if f.code != "too-short"]
                bad_told += bool(named)
                missed += [] if named else [f"- {entry['id']} ({entry['rows']} rows): {entry['note']}"]
                continue
            if entry["label"] == "short":
                short += 1
                said += any(f.code == "too-short" for f in findings)
                alarms = [f for f in alarms if f.code != "too-short"]
            rows += entry["rows"]
            false += len(alarms)
            spikes += len(entry["spikes"])
            starts = [e.step for e in events] + [f.steps[0] for f in findings if f.steps] + told_spikes(findings)
            told += sum(any(abs(at - step) <= 2 * entry["every"] for at in starts) for step in entry["spikes"])
            lines += [f"- {entry['id']} ({entry['rows']} rows): {f.code}, {f.severity}: {f.what}" for f in alarms]
        per = 1e4 * false / max(1, rows)
        print(
            f"| {half} | {len(entries)} | {rows} | {false} | {per:.1f} | {bad} | {bad_told} | {spikes} | {told} |"
            f" {short} | {said} |"
        )
    print("\nEvery warning:\n")
    print("\n".join(lines) or "none")
    print("\nBad ends that are not told:\n")
    print("\n".join(missed) or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
