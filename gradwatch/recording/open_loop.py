"""Begins to record an optimizer, by the kind of loop that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from gradwatch.recording.loops import Loop, Stepped
from gradwatch.recording.notices import Notices
from gradwatch.recording.optimizers import NoOptimizer, OptimizersInBackward, steps_flat_part, with_inner
from gradwatch.recording.options import RecordingOptions
from gradwatch.recording.parameters import class_of, settings_of
from gradwatch.recording.sink import StepSink
from gradwatch.recording.tracker import StepTracker
from gradwatch.recording.update_gate import UpdateGate
from gradwatch.recording.weight_sampler import WeightSampler

if TYPE_CHECKING:
    from gradwatch.clip import Policy


def open_loop(
    name: str,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    options: RecordingOptions,
    policy: Policy | None,
    sink: StepSink,
    notices: Notices,
) -> Loop:
    """Begin to record an optimizer into the sink."""
    beginning = sink.begin(name, class_of(optimizer), settings_of(optimizer), options.first_step)
    if not beginning.is_recorded:
        acts = policy is not None or options.skip_nonfinite or options.capture is not None
        options = options.unrecorded(is_measured=acts)
    tracker = StepTracker(name, model, optimizer, options, sink, beginning)
    if steps_flat_part(model, optimizer):
        notices.warn_once(
            f"DeepSpeed's ZeRO lets optimizer {name!r} step a flat part of the weights in each process, after it has"
            " clipped them. The norms recorded are those of rank 0's part, not of the gradient (zero-part)"
        )
    gate = UpdateGate(
        optimizer,
        tracker.parameters,
        notices,
        policy=policy,
        skip_nonfinite=options.skip_nonfinite,
        only_unclipped=options.clip_only_unclipped,
    )
    sink.admit(tracker, beginning)
    if isinstance(optimizer, NoOptimizer):
        from gradwatch.recording.rare_loops import WithoutOptimizer

        return WithoutOptimizer(tracker, gate)
    if isinstance(optimizer, OptimizersInBackward):
        from gradwatch.recording.rare_loops import WithinBackward

        return WithinBackward(tracker, optimizer.members, gate)
    return Stepped(tracker, with_inner(optimizer), gate, WeightSampler(options.weights_every, options.updates_every))
