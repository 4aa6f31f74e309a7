"""Findings about a captured step: their cause is what its replay found; without one, they suggest the replay."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from gradwatch.analysis.diagnosis.finding import CapturedStep, Finding
from gradwatch.analysis.replays.result import Replay
from gradwatch.analysis.replays.wording import headline
from gradwatch.capture import CaptureInfo

OF_A_STEP = frozenset(
    {
        "nonfinite-loss",
        "nonfinite-gradient",
        "nonfinite-weights",
        "norm-overflow",
        "loss-hides-nan",
        "diverged",
        "spike",
    }
)
"""The codes of findings that begin with a single step."""

BEFORE_STEPS = 1
"""A finding may begin this many steps after the bad step, whose gradients are finite but whose update is harmful."""


def with_captures(
    findings: Sequence[Finding], captures: Sequence[CaptureInfo], replays: Sequence[Replay], run: str
) -> tuple[Finding, ...]:
    """The findings, each of one captured step with what its replay found, or with how to replay it.

    Args:
        findings: in any order, which stays.
        captures: of the run.
        replays: of the run.
        run: the run as a command names it.
    """
    return tuple(_told(finding, captures, replays, run) for finding in findings)


def _told(finding: Finding, captures: Sequence[CaptureInfo], replays: Sequence[Replay], run: str) -> Finding:
    if finding.steps is None or finding.code not in OF_A_STEP:
        return finding
    first, last = finding.steps
    own = [one for one in captures if one.optimizer == finding.optimizer and first - BEFORE_STEPS <= one.step <= last]
    if not own:
        return finding
    answers = {(one.step, one.optimizer): one for one in replays}
    capture = next((one for one in own if (one.step, one.optimizer) in answers), own[0])
    found = answers.get((capture.step, capture.optimizer))
    kept = CapturedStep(
        step=capture.step,
        folder=str(capture.folder),
        replayable=capture.replayable,
        replayed=None if found is None else headline(found),
    )
    command = f"gradwatch replay {run} --step {capture.step}"
    if any(one.step == capture.step and one.optimizer != capture.optimizer for one in captures):
        command += f" --optimizer {shlex.quote(capture.optimizer)}"  # else it replays the first of the step
    if found is not None:
        return _with_replay(replace(finding, capture=kept), found, command)
    return _to_be_replayed(replace(finding, capture=kept), capture, command)


def _with_replay(finding: Finding, found: Replay, command: str) -> Finding:
    """Take the cause from the replay. If the replay found no place, keep the usual causes beside it."""
    odd = "".join(f"; row {row.row}: {' and '.join(row.odd[:2])}" for row in found.suspects[:1] if row.odd)
    told = f"by the replay of step {found.step}: {headline(found)}{odd}"
    cause = told if found.origin is not None else f"{finding.cause}; {told}"
    return replace(
        finding,
        cause=cause,
        confirm=f"`{command}` prints every answer of the replay",
    )


def _to_be_replayed(finding: Finding, capture: CaptureInfo, command: str) -> Finding:
    if not capture.replayable:
        why = "; ".join(capture.not_kept)
        return replace(
            finding, confirm=f"{finding.confirm}; step {capture.step} was captured but can't be replayed: {why}"
        )
    return replace(
        finding,
        remedy=f"`{command} SCRIPT` names the operation, the line and the rows of the captured step {capture.step};"
        f" then {finding.remedy}",
        confirm=f"`{command} SCRIPT`, with the training's script and its arguments",
    )
