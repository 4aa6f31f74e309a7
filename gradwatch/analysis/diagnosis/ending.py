"""How the training ended, and whether there is enough of it to judge."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.diagnosis.recreated import turns

MIN_STEPS_TO_JUDGE = 10  # steps: with fewer nothing has a level
FEW_STEPS = 40  # steps: below that most detectors have no level yet
JUMP_RATIO = 10.0  # times: norm or loss, from the first recorded step to the last of a few


def died(facts: Facts) -> Finding | None:
    """The training ended by an exception or a signal."""
    state, detail = facts.ending.state, facts.ending.detail
    if state not in ("exception", "signal") or detail in ("KeyboardInterrupt", "SystemExit"):
        return None
    by = f"an exception ({detail})" if state == "exception" else f"a signal ({detail})"
    last = _last_step(facts)
    where = "before its first step" if last is None else f"after step {last}"
    return Finding(
        code="died",
        severity="warning",
        certainty="shown",
        what=f"the training was ended by {by} {where}",
        steps=None if last is None else (last, last),
        evidence={"last_step": Quantity(last, "step"), "ended_by": Quantity(detail, state)},
        cause="the script, its data loader, or the system it runs on; the record of the gradients does not tell",
        remedy="read the traceback that the script printed, and resume from the last checkpoint",
        confirm="the last lines of the training's own output",
    )


def killed(facts: Facts) -> Finding | None:
    """The process is gone, and it did not close the run."""
    if facts.ending.state != "killed":
        return None
    last = _last_step(facts)
    return Finding(
        code="killed",
        severity="warning",
        certainty="likely",
        what="the recording has no end: its process is gone"
        + ("" if last is None else f", and step {last} is the last one on the disk"),
        steps=None if last is None else (last, last),
        evidence={"last_step": Quantity(last, "step")},
        cause="the process was killed (out of memory, a time limit, kill -9), or the machine went down",
        remedy="look at the scheduler's and the system's log, for example for the out-of-memory killer",
        confirm="`dmesg`, or the job's exit status",
    )


def stopped(facts: Facts) -> Finding | None:
    """Gradwatch itself gave up recording while the training went on."""
    if facts.ending.state != "fault":
        return None
    last = _last_step(facts)
    return Finding(
        code="recording-stopped",
        severity="info",
        certainty="shown",
        what="gradwatch stopped recording" + ("" if last is None else f" after step {last}") + "; the training went on",
        steps=None if last is None else (last, last),
        evidence={"last_step": Quantity(last, "step")},
        cause="a full or missing disk, or a fault in gradwatch; the training's log has its message",
        remedy="see the message recording-stopped in docs/messages.md",
        confirm="the training's own log",
    )


def too_short(facts: Facts) -> Finding | None:
    """There are too few steps for any verdict."""
    steps = _most_steps(facts)
    if facts.ending.state == "running" or steps == 0 or steps >= FEW_STEPS:
        return None
    jump = _largest_jump(facts)
    is_few = steps < MIN_STEPS_TO_JUDGE or jump >= JUMP_RATIO
    unit = "rows" if facts.is_imported else "steps"
    rose = f"; from the first to the last, loss or norm rose {jump:.3g} times" if jump >= JUMP_RATIO else ""
    return Finding(
        code="too-short",
        severity="warning" if is_few else "info",
        certainty="shown",
        what=f"{steps} recorded {unit} are too few to judge{rose}",
        steps=(min(int(o.steps[0]) for o in facts.optimizers if len(o.steps)), _last_step(facts) or 0),
        evidence={"steps": Quantity(steps, unit), "largest_rise": Quantity(jump, "times the first")},
        cause=f"no level is known before about {FEW_STEPS} {unit}, so no rise can be told from the usual",
        remedy="record more steps before drawing a conclusion",
        confirm=f"record at least {FEW_STEPS} {unit}, better a few hundred",
    )


def _most_steps(facts: Facts) -> int:
    """The recorded steps of the optimizer that has most, or of those that took over from one another."""
    in_turn = sum(len(optimizer.frame) for optimizer in turns(facts))
    return max([in_turn, *(len(optimizer.frame) for optimizer in facts.optimizers)])


def _largest_jump(facts: Facts) -> float:
    """How many times norm or loss rose from the first step to the last, the largest of all optimizers."""
    jumps = [1.0]
    for optimizer in facts.optimizers:
        for values in (optimizer.total_norm, optimizer.loss):
            finite = values[np.isfinite(values) & (values > 0)]
            if len(finite) >= 2:
                jumps.append(float(finite[-1] / finite[0]))
    return max(jumps)


def _last_step(facts: Facts) -> int | None:
    return max((int(optimizer.steps[-1]) for optimizer in facts.optimizers if len(optimizer.steps)), default=None)


RULES = (died, killed, stopped, too_short)
