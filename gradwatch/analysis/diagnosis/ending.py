"""Findings about how the training ended, and whether it was long enough to judge."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.diagnosis.recreated import turns
from gradwatch.text import number

MIN_STEPS_TO_JUDGE = 10  # steps: too few for a level of anything
FEW_STEPS = 40  # steps that most detectors need to learn a level
JUMP_RATIO = 10.0  # times: norm or loss, from the first recorded step to the last of a few


_ENDED_BY = {"exception": "an exception", "signal": "a signal", "exit": "the script's own exit code"}


def died(facts: Facts) -> Finding | None:
    """Report a training that an exception, a signal or a script's exit code other than 0 ended."""
    state, detail = facts.ending.state, facts.ending.detail
    if state not in _ENDED_BY or detail in ("", "KeyboardInterrupt", "SystemExit"):
        return None
    by = f"{_ENDED_BY[state]} ({detail})"
    last = _last_step(facts)
    where = "before its first step" if last is None else f"after step {last}"
    from_outside = state == "signal"
    return Finding(
        code="died",
        severity="warning",
        certainty="shown",
        what=f"{by} ended the training {where}",
        steps=None if last is None else (last, last),
        evidence={"last_step": Quantity(last, "step"), "ended_by": Quantity(detail, state)},
        cause="something outside the script sent the signal: a scheduler, a time limit, or a person"
        if from_outside
        else "the script, its data loader, or the system it runs on; the gradients do not show which",
        remedy="look for the sender in the log of the scheduler or of the system, and resume from the last checkpoint"
        if from_outside
        else "read the traceback that the script printed, and resume from the last checkpoint",
        confirm="look at the exit status of the job"
        if from_outside
        else "look at the last lines of the training's own output",
    )


def killed(facts: Facts) -> Finding | None:
    """Report a process that is gone without having closed the run."""
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
        remedy="search the logs of the scheduler and the system, for example for the out-of-memory killer",
        confirm="look at `dmesg` or the job's exit status",
    )


def stopped(facts: Facts) -> Finding | None:
    """Report that gradwatch stopped recording while the training went on."""
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
        cause="a full or missing disk, or a fault in gradwatch; the training's log has the message",
        remedy="see the message recording-stopped in docs/messages.md",
        confirm="look for the message in the training's log",
    )


def too_short(facts: Facts) -> Finding | None:
    """Report a run with too few steps for a verdict."""
    steps = _most_steps(facts)
    if facts.ending.state == "running" or steps == 0 or steps >= FEW_STEPS:
        return None
    jump = _largest_jump(facts)
    is_few = steps < MIN_STEPS_TO_JUDGE or jump >= JUMP_RATIO
    unit = "rows" if facts.is_imported else "steps"
    recorded = f"{steps} recorded {unit} are" if steps != 1 else f"1 recorded {unit[:-1]} is"
    rose = f"; from the first to the last, loss or norm rose {number(jump)} times" if jump >= JUMP_RATIO else ""
    return Finding(
        code="too-short",
        severity="warning" if is_few else "info",
        certainty="shown",
        what=f"{recorded} too few to judge{rose}",
        steps=(min(int(o.steps[0]) for o in facts.optimizers if len(o.steps)), _last_step(facts) or 0),
        evidence={"steps": Quantity(steps, unit), "largest_rise": Quantity(jump, "times the first")},
        cause=f"with fewer than about {FEW_STEPS} {unit}, the usual level is unknown, so a rise can't be judged",
        remedy="record more steps before drawing a conclusion",
        confirm=f"record at least {FEW_STEPS} {unit}, or better a few hundred",
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
