"""Precision, recall and confusion of `Run.diagnosis()` over planted faults and their healthy twins.

    python benchmarks/diagnosis/evaluate.py tuning            # the half that rules may be tuned on
    python benchmarks/diagnosis/evaluate.py held_out          # the half that is looked at after a rule is committed
    python benchmarks/diagnosis/evaluate.py tuning --only bf  # cases whose name contains "bf"

A case is right when its first finding of warning or worse has the expected code (or one that is
listed as right as well), names the optimizer and the parameter, and its steps hold the step at which
the fault was planted. A healthy twin is right when no finding is a warning or worse. A remedy is wrong
when it belongs to another class of cause than the fault's. Contradictions are places where report,
`check`, recommend and the diagnosis say different things of one run.

A half may also have pairs of runs, of which `gradwatch compare` has to say where they part (or that they are equal to
the bit), and gates, at which `gradwatch check` has to fail or to pass. Of some runs it is known how far apart the
advice of `gradwatch recommend` may be: of two that are alike but for one step, and of one before and after a change.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lab import Advice, ByValue, Case, Gate, Pair, Place

from gradwatch import Run
from gradwatch.cli.signatures import app
from gradwatch.errors import EmptyRun

HERE = Path(__file__).parent
# What the cause of each code is mended by. A first finding whose remedy is of another class misleads.
REMEDY = {
    "learning-rate-zero": "script",
    "stale-optimizer": "script",
    "no-gradient": "script",
    "no-steps": "script",
    "parameters-without-optimizer": "script",
    "gradients-accumulate": "script",
    "ineffective-clipping": "script",
    "clipped-by-script": "script",
    "died": "script",
    "killed": "script",
    "zero-gradients": "signal",
    "constant-loss": "signal",
    "no-progress": "signal",
    "dead-parameters": "signal",
    "all-steps-skipped": "precision",
    "updates-below-precision": "precision",
    "loss-scale": "precision",
    "clipped-to-nothing": "threshold",
    "threshold-too-low": "threshold",
    "clip-starves": "threshold",
    "diverged": "rate",
    "spike": "rate",
    "update-spike": "rate",
    "learning-rate-too-high": "rate",
    "repeated-spikes": "rate",
    "loss-regressed": "rate",
    "reward-lost": "rate",
    "huge-loss": "rate",
    "updates-out-of-proportion": "rate",
    "optimizer-recreated": "script",
    "vanishing": "architecture",
    "large-initial-norms": "architecture",
    "one-parameter-dominates": "threshold",
    "norm-overflow": "precision",
    "eps-starvation": "precision",
    "overfitting": "none",
    "nonfinite-loss": "operation",
    "nonfinite-gradient": "operation",
    "loss-hides-nan": "operation",
    "nonfinite-weights": "script",
    "too-short": "none",
    "norm-rises-as-rate-falls": "none",
    "norms-after-clipping": "none",
    "recording-stopped": "none",
    "desync": "script",
    "dropout-noise": "signal",
    "held-spike": "threshold",
    "threshold-idle": "threshold",
}


@dataclass(frozen=True)
class Outcome:
    """What was said of one form of one case."""

    case: Case
    broken: bool
    findings: tuple[dict[str, Any], ...]
    contradictions: tuple[str, ...]

    @property
    def alarming(self) -> list[dict[str, Any]]:
        return [f for f in self.findings if f["severity"] != "info"]

    @property
    def first(self) -> str | None:
        """Return the code of the first finding. One of severity info counts only if it is the expected one."""
        told = [f["code"] for f in self.alarming] or [f["code"] for f in self.findings if f["code"] == self.case.code]
        return told[0] if told else None

    @property
    def expected(self) -> set[str]:
        return {self.case.code, *self.case.also} - {None} if self.broken else set()  # type: ignore[return-value]

    @property
    def code_right(self) -> bool:
        if self.expected:
            return self.first in self.expected
        return all(f["code"] in self.case.twin_may for f in self.alarming)

    @property
    def where_right(self) -> bool:
        """Optimizer, parameter and step, as far as the case fixes them."""
        found = next((f for f in self.findings if f["code"] == self.first), None)
        if found is None:
            return False
        if self.case.optimizer is not None and found["optimizer"] != self.case.optimizer:
            return False
        if self.case.parameter and not any(self.case.parameter in name for name in found["parameters"]):
            return False
        if self.case.step is None:
            return True
        return found["steps"] is not None and abs(found["steps"][0] - self.case.step) <= self.case.within

    @property
    def remedy_wrong(self) -> bool:
        if not self.expected or self.first is None:
            return False
        return REMEDY.get(self.first) not in {REMEDY[code] for code in self.expected}


def outcome(case: Case, broken: bool, folder: Path) -> Outcome:
    place = Place(folder / f"{case.name}-{'broken' if broken else 'healthy'}", seed=zlib.crc32(case.name.encode()))
    if not place.run.exists():
        torch.manual_seed(place.seed)
        with contextlib.redirect_stdout(io.StringIO()):
            case.train(place, broken)
    findings = tuple(finding.as_dict() for finding in Run(place.run).diagnosis())
    return Outcome(case, broken, findings, tuple(contradictions(place.run, findings)))


def record(train: Callable[[Place, bool], None], broken: bool, run: Path) -> Path:
    """Train one form of a pair or a gate, unless it is there."""
    place = Place(run, seed=zlib.crc32(train.__name__.encode()))
    if not run.exists():
        torch.manual_seed(place.seed)
        with contextlib.redirect_stdout(io.StringIO()):
            train(place, broken)
    return run


def parting_wrong(pair: Pair, folder: Path) -> list[str]:
    """What `gradwatch compare` says wrongly of a pair, and of its first run made again."""
    name = pair.train.__name__
    forms = {"first": False, "again": False, "other": True}
    first, again, other = (record(pair.train, broken, folder / f"{name}-{form}") for form, broken in forms.items())
    equal, apart = (read("compare", first, run)[1]["differs"] for run in (again, other))  # type: ignore[index]
    wrong = [f"{name}: equal runs are said to part at {d['step']}" for d in equal if not d["bit_equal"]]
    found = apart[0]
    right = (
        found["step"] is not None
        and abs(found["step"] - pair.step) <= pair.within
        and found["source"] in pair.sources
        and (not pair.parameter or any(pair.parameter in each for each in found["parameters"][:1]))
        and pair.optimizer in (None, found["optimizer"])
    )
    told = f"{found['source']} of {found['optimizer']} at {found['step']} ({', '.join(found['parameters'][:2])})"
    return wrong + ([] if right else [f"{name}: expected {' or '.join(pair.sources)} at {pair.step}; told {told}"])


def gate_wrong(gate: Gate, folder: Path) -> list[str]:
    """Where `gradwatch check` passes over the broken form or fails over the healthy one."""
    name, wrong = gate.train.__name__, []
    for form, broken in (("broken", True), ("healthy", False)):
        answer = read("check", record(gate.train, broken, folder / f"{name}-{form}"), *gate.arguments)
        if answer is None or answer["healthy"] == broken:
            wrong.append(f"{name}, {form}: check {' '.join(gate.arguments)} says {answer and answer['faults']}")
    return wrong


def advice_wrong(advice: Advice, folder: Path) -> list[str]:
    """Where the advice of two runs, or before and after a change, lies further apart than it may, or is lacking."""
    name = advice.train.__name__
    first = record(advice.train, False, folder / f"{name}-first")
    before = read("recommend", first)
    if advice.changes:
        after = read("recommend", first, *(part for change in advice.changes for part in ("--if", change)))["after"]
    else:
        after = read("recommend", record(advice.train, True, folder / f"{name}-other"))
    was, now = ((each["max_norm"], each["clip"]) for each in (before, after))
    told = f"{name} {' '.join(advice.changes)}: {was[0]} with {was[1]}, then {now[0]} with {now[1]}"
    print(f"- {told}")
    if was[0] is None or now[0] is None:
        return [] if was == now and not advice.changes else [told]
    return [] if advice.low <= now[0] / was[0] <= advice.high else [told]


def by_value_wrong(pair: ByValue, folder: Path) -> list[str]:
    """Where no threshold by value is given though single entries carry the large steps, or one though they don't."""
    name, wrong = pair.train.__name__, []
    for form, entry in (("entries", True), ("all", False)):
        value = read("recommend", record(pair.train, entry, folder / f"{name}-{form}"))["clip_value"]
        if (value is not None) != entry:
            wrong.append(f"{name}, large in {form}: a threshold by value of {value}")
    return wrong


def read(command: str, *arguments: Path | str) -> Any:
    """The JSON of a command; None where it refuses the run, as a report refuses one without a step."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit, EmptyRun):
        app([command, *map(str, arguments), "--json"], obj=[])
    return json.loads(printed.getvalue()) if printed.getvalue().strip() else None


def contradictions(run: Path, findings: tuple[dict[str, Any], ...]) -> list[str]:
    """Where two ways of asking about one run give answers that can't both be true."""
    report, check, advice = read("report", run), read("check", run), read("recommend", run)
    worst = max((f["severity"] for f in findings), key=["info", "warning", "critical"].index, default="info")
    verdict = {"info": "healthy"}.get(worst, worst)
    found = []
    for name, answer in (("report", report), ("check", check)):
        if answer is not None and answer["verdict"] != verdict:
            found.append(f"{name} says {answer['verdict']} over a worst finding of {worst}")
        if answer is not None and [f["code"] for f in answer["findings"]] != [f["code"] for f in findings]:
            found.append(f"{name} has other findings than the diagnosis")
    if check is not None and worst != "info" and check["healthy"]:
        found.append(f"check passes over a worst finding of {worst}")
    # Of NaN that an operation made, and of a training in which nothing trained, no threshold is the cure.
    hopeless = {c for c, cure in REMEDY.items() if cure in ("operation", "signal", "script")} - {"ineffective-clipping"}
    first = findings[0] if findings else None
    if first and first["severity"] == "critical" and first["code"] in hopeless and advice and advice["max_norm"]:
        found.append(f"{first['code']} is critical and recommend says {advice['max_norm']:.3g}")
    lost = {"diverged", "nonfinite-loss", "nonfinite-gradient"} & {
        f["code"] for f in findings if f["severity"] != "info"
    }
    if advice and lost and any("stayed calm" in reason for reason in advice["reasons"]):
        found.append(f"recommend says that norms stayed calm over {', '.join(sorted(lost))}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    rounds = ["fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
    parser.add_argument("half", choices=["tuning", "held_out", *rounds])
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=Path, help="keep the runs here, and take those that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    half = importlib.import_module(options.half)
    cases = [case for case in half.case.all if options.only in case.name]
    pairs: list[Pair] = [pair for pair in getattr(half, "pairs", ()) if options.only in pair.train.__name__]
    gates: list[Gate] = [gate for gate in getattr(half, "gates", ()) if options.only in gate.train.__name__]
    alike, changes, by_value = (
        [each for each in getattr(half, name, ()) if options.only in each.train.__name__]
        for name in ("advice", "changes", "by_value")
    )
    folder = options.runs or Path(tempfile.mkdtemp())
    forms = [(case, True) for case in cases if case.code is not None]
    forms += [(case, False) for case in cases if case.twin or case.code is None]
    outcomes = [outcome(case, broken, folder) for case, broken in forms]
    report(options.half, outcomes)
    beside("pairs of runs placed rightly, and equal ones said to be", [parting_wrong(pair, folder) for pair in pairs])
    beside("gates that fail and pass as they should", [gate_wrong(gate, folder) for gate in gates])
    beside("advice of runs alike but for one step within a factor of 2", [advice_wrong(a, folder) for a in alike])
    beside("advice after a change within its bounds", [advice_wrong(a, folder) for a in changes])
    beside("by value where single entries stand out, and only there", [by_value_wrong(b, folder) for b in by_value])
    if options.runs is None:
        shutil.rmtree(folder)


def beside(what: str, wrong: list[list[str]]) -> None:
    """Print how many of the pairs or gates are right, and what is said of the others."""
    if wrong:
        print(f"\n{what}: {sum(not each for each in wrong)} of {len(wrong)}")
        print("".join(f"\n- {line}" for each in wrong for line in each))


def report(half: str, outcomes: list[Outcome]) -> None:
    broken, healthy = [o for o in outcomes if o.broken], [o for o in outcomes if not o.broken]
    right, placed = sum(o.code_right for o in broken), sum(o.code_right and o.where_right for o in broken)
    print(f"# {half}: {len(broken)} planted faults, {len(healthy)} healthy trainings\n")
    print("| | | target |\n|---|---|---|")
    print(f"| right code | {right} of {len(broken)} ({right / max(1, len(broken)):.2f}) | 0.90 |")
    print(f"| right code, optimizer, parameter and step | {placed} of {len(broken)} | |")
    wrong = sum(o.remedy_wrong for o in broken)
    print(f"| wrong class of remedy | {wrong} of {len(broken)} ({wrong / max(1, len(broken)):.2f}) | 0.02 |")
    false = sum(not o.code_right for o in healthy)
    print(f"| healthy with a warning | {false} of {len(healthy)} ({false / max(1, len(healthy)):.2f}) | 0.03 |")
    print(f"| contradictions | {sum(bool(o.contradictions) for o in outcomes)} of {len(outcomes)} | 0 |")
    print("\n| code | expected | found first | both | precision | recall |\n|---|---|---|---|---|---|")
    expected = collections.Counter(o.case.code for o in broken)
    first = collections.Counter(o.first for o in outcomes if o.alarming or o.first)
    both = collections.Counter(o.case.code for o in broken if o.code_right)
    named = collections.Counter(o.first for o in broken if o.code_right)
    for code in sorted({*expected, *first} - {None}):  # type: ignore[type-var]
        precision = f"{named[code] / first[code]:.2f}" if first[code] else "-"
        recall = f"{both[code] / expected[code]:.2f}" if expected[code] else "-"
        print(f"| {code} | {expected[code]} | {first[code]} | {both[code]} | {precision} | {recall} |")
    print("\nWrong, or not in the right place:\n")
    for o in outcomes:
        told = (
            ", ".join(f"{f['code']} ({f['severity']}, {f['optimizer']}, {f['steps']})" for f in o.findings) or "nothing"
        )
        form = "broken" if o.broken else "healthy"
        if not o.code_right or (o.broken and not o.where_right) or o.contradictions:
            wanted = " or ".join(sorted(o.expected)) or "nothing"
            print(f"- {o.case.name}, {form}: expected {wanted}; told {told}. {'; '.join(o.contradictions)}".rstrip())


if __name__ == "__main__":
    main()
