"""Run small scripts that once showed a fault, and print the end of each output: `python benchmarks/cases.py FOLDER`.

The folder holds one script per case. It is not part of the repository. A script that uses gradwatch itself runs as it
is; every other one runs under `gradwatch run`, and the verdict of its run follows. What is right for each case stands
in the folder's README; a reader compares.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import gradwatch
from gradwatch.errors import GradwatchError

LIMIT = 300  # seconds for a case
LAST = 4  # lines of its output
WIDTH = 200
PYTHON = [sys.executable]
RUN = "RUN"  # stands for the folder of the run

ARGUMENTS: dict[str, list[list[str]]] = {
    "clip_starves": [[RUN, "1"]],
    "demo_threads": [["1", "300"]],
    "kfold_memory": [["50"]],
    "lightning_no_optimizer": [[RUN]],
    "muon_false_eps": [[RUN, "1e-6"]],
    "names": [[RUN]],
    "nan_advice": [[RUN]],
    "pair": [[RUN]],
    "part": [["first", "0"], ["second", "1"]],
    "resumed_run_writes_nothing_for_long": [["60000", "3"]],
    "resumed_short_attempt_lost": [["60000"]],
    "segv_subclass_gradient": [["masked"], ["two"], ["zero"]],
}
"""The arguments of each time that a script runs; without an entry it runs once, without arguments."""

USES_GRADWATCH = re.compile(r"""^\s*(import|from)\b.*\bgradwatch\b|["']gradwatch["']|subprocess""", re.MULTILINE)

AFTERWARDS = {
    "part": ["compare", "first", "second"],
    "names": ["report", RUN],
    "clip_after_step": ["doctor"],
}
"""The command of gradwatch whose output the case is about."""


REMARKS = {
    "one_bit_breaks_listing": "it looks for a flipped bit that makes the reader raise, finds none and cannot print it",
    "one_bit_wrong_events": (
        "it flips each of 78,768 bits, which takes longer; benchmarks/store_fuzz.py flips them too, and none is made up"
    ),
    "resumed_short_attempt_lost": (
        "it ends at an internal value that is gone; benchmarks/resumed.py counts the steps of such an attempt"
    ),
    "names": "the report ends with its layers",
    "sigterm_deadlock": "it sends the signal from within an internal call that is gone; it ends as it should",
    "view_store_hangs_listing": "the list of runs answers",
}
"""What a reader has to know of a script to read its lines."""

MOVED = {"gradwatch.tensorboard.plugin": "gradwatch.plugins.tensorboard"}
"""Modules that the scripts know by an older name."""


def commands(script: Path) -> Iterator[list[str]]:
    """The commands of a case, in order."""
    gradwatch_command = [*PYTHON, "-m", "gradwatch"]
    start = PYTHON
    if script.stem == "dtensor_norm":
        start = [*PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    elif not USES_GRADWATCH.search(script.read_text()):
        start = [*gradwatch_command, "run", "--run", RUN]
    for arguments in ARGUMENTS.get(script.stem, [[]]):
        yield [*start, str(script), *arguments]
    if script.stem in AFTERWARDS:
        command, *rest = AFTERWARDS[script.stem]
        yield [*gradwatch_command, command, *(rest or [str(script)])]


def run_case(script: Path) -> Iterator[str]:
    """Run a case in a folder of its own, and tell of each command its exit code and the end of its output."""
    with tempfile.TemporaryDirectory() as folder:
        for command in commands(_up_to_date(script, Path(folder))):
            yield from _outcome(command, Path(folder))
        for run in _runs(Path(folder)):
            yield f"  {run.relative_to(folder)}: {_verdict(run)}"


def _up_to_date(script: Path, folder: Path) -> Path:
    """The script, or a copy of it that imports from where the modules are now."""
    text = script.read_text()
    if not any(old in text for old in MOVED):
        return script
    for old, new in MOVED.items():
        text = text.replace(old, new)
    copy = folder / script.name
    copy.write_text(text)
    return copy


def _outcome(command: Sequence[str], folder: Path) -> Iterator[str]:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"RUN": RUN},  # where some of the scripts expect it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield f"  still running after {LIMIT} s"
        return
    yield f"  exit code {done.returncode}"
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    for line in lines[-LAST:]:
        yield "  | " + _plain(line)


def _plain(line: str) -> str:
    """A line without colours and the folders of files, cut to the width of the table."""
    return re.sub(r"\x1b\[[0-9;]*m|(?<![\w.])/[^\s'\"]*/", "", line)[:WIDTH]


def _runs(folder: Path) -> list[Path]:
    return sorted(store.parent for store in folder.rglob("gradwatch.db"))


def _verdict(run: Path) -> str:
    try:
        summary = gradwatch.Run(run).summary()
    except GradwatchError as error:
        return error.slug
    codes = ", ".join(dict.fromkeys(finding.code for finding in summary.findings))
    told = f"{summary.steps} steps, {summary.verdict}: {summary.reason}"[:WIDTH]
    return f"{told} [{codes}]" if codes else told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the scripts")
    parser.add_argument("names", nargs="*", help="of some cases; default: all")
    options = parser.parse_args()
    scripts = sorted(options.folder.resolve().glob("*.py"))
    for script in scripts:
        if not options.names or script.stem in options.names:
            remark = [f"  ({REMARKS[script.stem]})"] if script.stem in REMARKS else []
            print("\n".join([script.stem, *remark, *run_case(script)]), flush=True)


if __name__ == "__main__":
    main()
