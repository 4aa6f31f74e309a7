"""What `gradwatch doctor` says of the first steps of a script, beside the diagnosis of a recording of the same steps.

    python benchmarks/diagnosis/first_steps.py tuning held_out fourth fifth sixth seventh eighth ninth tenth
    python benchmarks/diagnosis/first_steps.py eleventh twelfth
    python benchmarks/diagnosis/first_steps.py ninth --only bf    # cases whose name contains "bf"

Each form of each case is run as a script under doctor, at doctor's default number of steps. The script attaches
gradwatch itself, so that there is a second recording of these steps. A case that is a script already is recorded by
`gradwatch run --steps` in a second process. Histories that a case imports have no script, and are left out.

Doctor contradicts the recording where it
- passes, and the recording has a finding of warning or worse (but for the codes that few steps always have),
- fails, and the recording has none,
- gives a remedy that no finding of the recording gives, or leaves one out (numbers may differ: a script logs its last
  loss after the step at which doctor ends it),
- says that no clipping function was called, and the recording has a clip call, or the reverse.

Of healthy forms it prints also where doctor fails at all: the report of the whole run calls them healthy.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lab import Case, Place

import gradwatch
from gradwatch import Run
from gradwatch.errors import GradwatchError
from gradwatch.script.doctor import examine
from gradwatch.script.launch import Program, launch
from gradwatch.script.plan import RecordingPlan

STEPS = 5  # doctor's default
OF_ANY_FEW_STEPS = {"too-short", "died", "killed"}  # as in doctor


class _IsScript(Exception):
    """The case is a script, which lies here."""


class _IsImported(Exception):
    """The case imports a history."""


@dataclass(frozen=True)
class FirstSteps(Place):
    """Where a case records while doctor looks at it."""

    def watch(self, model: torch.nn.Module, optimizer: object, **options: object) -> gradwatch.Watch:
        watch = super().watch(model, optimizer, **options)
        _open.append(watch)
        return watch

    def script(self, text: str, kill: bool = False) -> None:
        raise _IsScript(self.written(text))

    def imported(self, rows: Sequence[dict[str, object]]) -> None:
        raise _IsImported


_open: list[gradwatch.Watch] = []


def train(half: str, name: str, broken: bool, run: str) -> None:
    """Train one form of a case: what its script does."""
    (case,) = (case for case in importlib.import_module(half).case.all if case.name == name)
    place = FirstSteps(Path(run), seed=zlib.crc32(name.encode()))
    torch.manual_seed(place.seed)
    case.train(place, broken)


def in_a_fork(answer: Callable[[], Any]) -> Any:
    """The JSON of what a function returns in a process of its own; None if the process dies."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                told = answer()
            with os.fdopen(writing, "w") as pipe:
                json.dump(told, pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def warm_up() -> None:
    """Import what every case needs once, rather than in each process."""
    own = Path(__file__).stem  # the scripts import it
    for name in (
        own,
        "torch._dynamo",
        "pandas",
        "sklearn.datasets",
        "gradwatch.recording.attach",
        "gradwatch.script.discover",
    ):
        importlib.import_module(name)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()


def kind_of(half: str, case: Case, broken: bool, run: Path) -> Any:
    """The script of a case that is one, else None."""
    try:
        train(half, case.name, broken, str(run))
    except _IsScript as script:
        return str(script)
    except _IsImported:
        return ""
    return None


def asked(script: Path) -> dict[str, Any]:
    """What doctor says of a script, after which the script's own recordings are closed."""
    examination = examine(Program(script, (script.name,)), STEPS)
    own = sys.modules.get("first_steps")
    for watch in getattr(own, "_open", ()):
        watch.close()
    return {
        "failed": examination.failed,
        "problems": [[o.about, o.text] for o in examination.observations if o.mark == "problem"],
        "clips": [o.text for o in examination.observations if o.about == "clipping"],
        "steps": next((o.text for o in examination.observations if o.about == "steps"), ""),
    }


def recorded(script: Path, run: Path) -> None:
    """Record a script's first steps, as `gradwatch run --steps` does."""
    with contextlib.suppress(SystemExit):
        launch(Program(script, (script.name,)), RecordingPlan(run=run, steps=STEPS))


def judge(half: str, case: Case, broken: bool, folder: Path) -> tuple[str, list[str], list[str]]:
    """Return whether a form can be compared, where doctor contradicts its recording, and the problems told."""
    run = folder / f"{half}-{case.name}-{'broken' if broken else 'healthy'}"
    script = run.with_suffix(".py")
    source = f"from first_steps import train\ntrain({half!r}, {case.name!r}, {broken!r}, {str(run)!r})\n"
    script.write_text(source)
    told = in_a_fork(lambda: asked(script))
    if told is None:
        return "died", [], []
    if not run.exists():
        own = in_a_fork(lambda: kind_of(half, case, broken, run)) if told["failed"] else ""
        if not own:
            return "died" if own is None else "imported", [], []
        told = in_a_fork(lambda: asked(Path(own)))
        in_a_fork(lambda: recorded(Path(own), run))
        if told is None:
            return "died", [], []
    problems = [text for _, text in told["problems"]]
    return "compared", contradictions(told, run), problems


def contradictions(told: dict[str, Any], run: Path) -> list[str]:
    try:
        findings = Run(run).diagnosis()
        steps = Run(run).steps()
    except GradwatchError as error:
        is_none = any(about == "steps" for about, _ in told["problems"])
        return [] if is_none else [f"doctor sees steps, and the recording can't be read: {error}"]
    of_few = OF_ANY_FEW_STEPS | ({"no-steps"} if len(steps) else set())  # another optimizer may step later
    alarming = [f for f in findings if f.severity != "info" and f.code not in of_few]
    found = []
    codes = ", ".join(f.code for f in alarming)
    if alarming and not told["problems"]:
        found.append(f"doctor passes over {codes}")
    if told["problems"] and not alarming:
        found.append(f"doctor fails over a healthy recording: {told['problems']}")
    if alarming and told["problems"]:
        said = [text for about, text in told["problems"] if about != "steps"]  # that there are none has no remedy
        found += [f"no finding has the remedy of: {t}" for t in said if not any(t.endswith(f.remedy) for f in findings)]
        found += [f"doctor says nothing of {f.code}" for f in alarming if not any(t.endswith(f.remedy) for t in said)]
    is_clipped = bool((steps["max_norm"].notna() | steps["clip_value"].notna()).any())
    if is_clipped and "no clipping function was called" in told["clips"]:
        found.append("doctor saw no clip call, and the recording did")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("halves", nargs="+")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    for half in options.halves:
        look_at(half, options.only)


def look_at(half: str, only: str) -> None:
    started = time.monotonic()
    counts = {"compared": 0, "imported": 0, "died": 0}
    contradicted, healthy, failing = [], 0, []
    with tempfile.TemporaryDirectory() as place:
        for case in importlib.import_module(half).case.all:
            if not any(part in case.name for part in only.split(",")):
                continue
            forms = [True] * (case.code is not None) + [False] * (case.twin or case.code is None)
            for broken in forms:
                kind, wrong, problems = judge(half, case, broken, Path(place))
                counts[kind] += 1
                name = f"{case.name}, {'broken' if broken else 'healthy'}"
                if wrong:
                    contradicted.append(f"- {name}: {'; '.join(wrong)}")
                if kind == "compared" and not broken:
                    healthy += 1
                    if problems:
                        failing.append(f"- {name}: {'; '.join(problems)}")
    print(
        f"{half}: {len(contradicted)} contradictions in {counts['compared']} forms;"
        f" doctor fails over {len(failing)} of {healthy} healthy; left out: {counts['imported']} imported,"
        f" {counts['died']} that died; {time.monotonic() - started:.0f} s",
    )
    print("\n".join(contradicted + ["healthy and failed:"] * bool(failing) + failing), flush=True)


if __name__ == "__main__":
    main()
