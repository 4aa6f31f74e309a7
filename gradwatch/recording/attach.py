"""`attach`: check the arguments, open a recording, return its handle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from torch import nn
from torch.optim import Optimizer

from gradwatch.distributed import rank_and_world_size
from gradwatch.errors import BadArgument, NoParameters
from gradwatch.record import KINDS, STATS, Event, StepRecord
from gradwatch.recording import lifecycle
from gradwatch.recording.delivery import EventDelivery
from gradwatch.recording.hooks import Reductions
from gradwatch.recording.hyperparameters import Config, found_settings, settings_text
from gradwatch.recording.losses import ScaledLosses
from gradwatch.recording.notices import Notices
from gradwatch.recording.open_loop import open_loop
from gradwatch.recording.opened_sink import OpenedSink, open_sink
from gradwatch.recording.optimizers import (
    NoOptimizer,
    group_in_backward_optimizers,
    unwrapped,
    with_stand_ins,
    without_wrapped,
)
from gradwatch.recording.options import Ranks, RecorderKind, RecordingOptions
from gradwatch.recording.parameters import Trained, listed, printable
from gradwatch.recording.recording import Recording
from gradwatch.recording.router import HookRouter
from gradwatch.recording.watch import Watch

# A training imports only what its options ask for: functions import the rest.
if TYPE_CHECKING:
    from gradwatch.capture import CaptureOptions
    from gradwatch.clip import Policy
    from gradwatch.recording.capture.recorder import StepCapture
    from gradwatch.sinks.targets import Destinations, Target

Optimizers: TypeAlias = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None
Clip: TypeAlias = "Policy | Mapping[str, Policy] | None"


def attach(
    model: nn.Module,
    optimizer: Optimizers,
    run: str | os.PathLike[str],
    *,
    clip: Clip = None,
    first_step: int | None = None,
    stats: Sequence[str] = STATS,
    every: int = 1,
    weights_every: int = 50,
    updates_every: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    stop_on: Sequence[str] = (),
    skip_nonfinite: bool = False,
    tensorboard: bool = False,
    total_steps: int | None = None,
    ranks: Ranks = False,
    config: Config | None = None,
    capture: bool | CaptureOptions = False,
    to: Target | Sequence[Target] = (),
    on_record: Callable[[StepRecord], object] | None = None,
    notify: str | Sequence[str] = (),
    notify_link: str | None = None,
    recorder: RecorderKind = "thread",
) -> Watch:
    """Record every step of one or several optimizers into the folder ``run``.

    Recording does not change the gradients, the weights or the random state. It measures before
    `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` clip.

    In a training of several processes (`torch.distributed`), attach in each of them with the same
    arguments; rank 0 writes the run. If parameters are sharded (FSDP, tensor parallel), gradwatch
    combines the parts of all ranks and records the numbers of whole gradients.

    Args:
        model: gives the parameters their names.
        optimizer: one, a list (named 0, 1, ...) or a mapping from name to optimizer. Each counts
            its own steps. Optimizers that step within the backward pass share one record. Pass None
            if the loop updates the weights itself; then each clip call is a step.
        run: a folder. If it already holds a run, the recording continues after its last step.
        clip: a policy from `gradwatch.clip` that clips before each step, or a mapping from an optimizer's
            name to its policy; None only observes. Every further optimizer gets a copy of the policy
            without its history (`Watch.policies`). Clipping goes on after the recording has ended, and in
            forked children.
        first_step: number of the first step, if you resume from a checkpoint before the last recorded step.
        stats: the statistics to record of each gradient: norm, abs_max, nonfinite, zeros. norm is always recorded.
        every: record only steps whose number is a multiple of this.
        weights_every: sample weight_norm and update_norm at multiples of this, and count entries of the gradients
            by magnitude (`Run.magnitudes`) at every second of them; 0 for never. During such a step gradwatch holds
            a copy of 262,144 entries of the weights, or of one in 1,024 of a very large model; of a model that is not
            copied whole, half as many with Adam, AdamW and SGD, whose updates are read as well.
        updates_every: at multiples of this, record the update of each parameter as the optimizer computed it:
            update_norm, weight_norm and, if the optimizer has a second moment, rms_ratio and
            second_moment_norm. They are read from the state of Adam, AdamW or SGD without copying the
            weights; for other optimizers updates are sampled by difference, with the weights. In a model with
            more than 262,144 entries, long parameters are estimated from an even sample. None: at every step
            for up to 16 parameters, every 10 steps for 150, and so on (a quarter as often where PyTorch's operators
            read them: without the compiled part, and on accelerators other than CUDA), and those of a few, the
            sentinels, at every step (`Run.sentinels`); 0 for never.
        on_event: called in the training thread with each event, a few steps after it occurred.
        stop_on: kinds of event that end the training if they are more than information. `TrainingStopped` is
            raised at the next step after the event was found, once everything is on disk.
        skip_nonfinite: skip an update whose gradients contain a NaN or an infinity, and only that one. Their
            ``grad`` becomes None, so the optimizer does nothing and its state does not change. The step is
            recorded as skipped. On an accelerator the optimizer must have ``fused=True``, which can skip
            without waiting for the device.
        tensorboard: also write a few scalars as event files into ``run``, for TensorBoard's Scalars page.
        total_steps: length of the whole training, if known; `gradwatch watch` then shows the progress.
        ranks: True records every rank: the norm and the non-finite entries of its own gradient before
            DistributedDataParallel reduces it (``model`` must be or contain that module), and whether its copies
            differ from those of other ranks. Also needed to record ranks with different parameters, such as the
            stages of a pipeline. "own": each process trains its own model and records its own run. "collective":
            as True, but the ranks add up their numbers by all-reduces, in a process group and threads of
            gradwatch's own, as long as all of them take part. See docs/ranks.md for when that is right.
        config: the hyperparameters: a mapping, a dataclass, an `argparse.Namespace`, or a config of Hydra, Lightning
            or Transformers. Reports and `gradwatch ls` show them, and `gradwatch compare` lists those that differ.
            Nested names are joined by dots, and values with a secret's name are hidden. None: take Hydra's config, a
            Lightning module's ``hparams``, or the only `argparse.Namespace` among the script's global variables.
            ``{}``: none.
        capture: save bad steps in the folder ``captures`` of the run, so that `gradwatch replay` can replay them:
            inputs, random state, weights and gradients, from before the update. True saves the first three steps
            that are not finite or far above the recent level; `gradwatch.capture.CaptureOptions` sets limits. Needs
            safetensors. On an accelerator each step then waits for its norm.
        to: trackers that also get a few series, the events and the verdict: "wandb", "mlflow", "trackio",
            "tensorboard" or "openmetrics:FILE", optionally with a project, an address or a folder after a colon, or
            an object with the methods of `gradwatch.sinks.tracker.Tracker`. Each has its own thread. gradwatch drops
            one that fails or is too slow, with a warning.
        notify: apprise addresses (``slack://...``, ``mailto://...``, ``json://host``) that get a message for each
            fault and when the training stalls. gradwatch does not store them.
        notify_link: a URL, for example of a dashboard, that stands at the end of each message.
        on_record: called in a separate thread with each `StepRecord` once it is on disk.
        recorder: "thread" makes the records, runs the detectors and writes the run in a thread of this process.
            "process" does so in a separate process. It takes almost none of this interpreter's time, and writes
            every completed step even if this process is killed. With several ranks these processes send the parts to
            that of rank 0, which combines them. It needs Linux or macOS. It feeds ``notify`` and the trackers that
            ``to`` names, but not ``on_record`` and trackers that are objects, which belong to this process.

    Raises:
        RecorderProcessFailed: the recorder's process does not start.
        BadArgument, NoParameters: an argument has an invalid value.
        UnsupportedVersion: the package of a tracker is not installed.
        ShardedParameters: parts of parameters can't be combined here.
        TrainingStopped: raised by the optimizer's ``step`` after an event of ``stop_on``.
        UnsupportedVersion: safetensors is not installed, and ``capture`` needs it.
        StoreNotWritable, RunInUse, NotARun, StoreTooNew, StoreDamaged: ``run`` can't be written.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with attach(model, optimizer, tmp_path / "run") as watch:
    ...     for _ in range(3):
    ...         loss = model(torch.ones(1, 2)).square().sum()
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         watch.log(loss=loss)
    >>> watch.steps
    3
    """
    named = _named_optimizers(model, optimizer)
    _check_kinds(model, named)
    named = with_stand_ins(named, model)
    if not any(listed(one) for one in named.values()):
        raise NoParameters("There is nothing to watch: no optimizer with a parameter was given.")
    named = without_wrapped(named)
    _check_stats(stats, every, (weights_every, updates_every), acts=clip is not None, skips=skip_nonfinite)
    _check_run_options(first_step, stop_on, total_steps, ranks)
    if recorder not in ("thread", "process"):
        raise BadArgument(f'recorder is {recorder!r}; expected "thread" or "process".')
    policies = _policies_for(list(named), clip)
    options = RecordingOptions(
        stats=("norm", *(name for name in STATS[1:] if name in stats)),
        every=every,
        weights_every=weights_every,
        updates_every=updates_every,
        first_step=first_step,
        total_steps=total_steps,
        stop_on=tuple(stop_on),
        skip_nonfinite=skip_nonfinite,
        tensorboard=tensorboard,
        ranks=ranks,
        config=settings_text(found_settings(model) if config is None else config),
        capture=_capture_options(capture),
        recorder=recorder,
        destinations=_destinations(to, on_record, notify, notify_link),
    )
    trained = {name: (model, one) for name, one in group_in_backward_optimizers(named).items()}
    return open_watch(trained, Path(run), options, policies, on_event)


def open_watch(
    trained: Trained,
    run: Path,
    options: RecordingOptions,
    policies: Mapping[str, Policy] | None = None,
    on_event: Callable[[Event], None] | None = None,
    scaled: ScaledLosses | None = None,
) -> Watch:
    """Open a recording of these optimizers, whose options are right, which knows these scaled losses."""
    run, policies = run.absolute(), dict(policies or {})
    with lifecycle.inside():
        lifecycle.check_not_open(run)
        opened = open_sink(trained, run, options, policies)
        try:
            return _begin(opened, trained, run, options, policies, on_event, scaled)
        except BaseException:
            opened.sink.close("fault", timeout=5.0)  # a run that no one writes must not look like one that is written
            raise


def _begin(
    opened: OpenedSink,
    trained: Trained,
    run: Path,
    options: RecordingOptions,
    policies: Mapping[str, Policy],
    on_event: Callable[[Event], None] | None,
    scaled: ScaledLosses | None,
) -> Watch:
    """Record the optimizers into a sink that is open; on failure no hook is left."""
    notices = Notices()
    loops = [
        open_loop(name, model, one, options=options, policy=policies.get(name), sink=opened.sink, notices=notices)
        for name, (model, one) in trained.items()
    ]
    opened.begin(loops, options)
    hears_reductions = bool(options.ranks) and options.before_reduction and opened.world_size > 1
    reductions = Reductions(dict.fromkeys(model for model, _ in trained.values()) if hears_reductions else ())
    delivery = EventDelivery(on_event, options.stop_on)
    capture = _step_capture(run, options)
    recording = Recording(run, opened.sink, delivery, reductions, notices, capture)
    router = HookRouter(recording, scaled)
    try:
        recording.open(loops, router)
        return Watch(recording, router, options, policies)
    except BaseException:
        recording.detach()
        raise


# ------------------------------------------------------------------------------------ the arguments


def _named_optimizers(model: nn.Module, optimizer: Optimizers) -> dict[str, Optimizer]:
    if optimizer is None:
        return {"0": NoOptimizer(model.parameters() if isinstance(model, nn.Module) else ())}
    if isinstance(optimizer, Mapping):
        return {printable(str(name)): unwrapped(one) for name, one in optimizer.items()}
    each = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    return {str(index): unwrapped(one) for index, one in enumerate(each)}


def _check_kinds(model: nn.Module, named: Mapping[str, Optimizer]) -> None:
    if not isinstance(model, nn.Module):
        raise BadArgument(f"model is a {type(model).__name__}; expected a torch.nn.Module.")
    for name, one in named.items():
        if not isinstance(one, Optimizer):
            raise BadArgument(f"optimizer {name!r} is a {type(one).__name__}; expected a torch.optim.Optimizer.")


def _check_stats(stats: Sequence[str], every: int, sampled: tuple[int, int | None], *, acts: bool, skips: bool) -> None:
    if isinstance(stats, str) or set(stats) - set(STATS):
        raise BadArgument(f"stats is {stats!r}; expected some of {', '.join(STATS)}.")
    if every < 1 or sampled[0] < 0 or (sampled[1] or 0) < 0:
        raise BadArgument(
            f"every is {every!r}, weights_every {sampled[0]!r} and updates_every {sampled[1]!r}; expected at least 1,"
            " and 0 or more for the others."
        )
    if skips and every != 1:
        raise BadArgument(f"every is {every!r}; skip_nonfinite looks at every step.")
    if acts and every != 1:
        raise BadArgument(f"every is {every!r}; expected 1 with clip=, which measures and records every step.")


def _check_run_options(first_step: int | None, stop_on: Sequence[str], total_steps: int | None, ranks: Ranks) -> None:
    if first_step is not None and first_step < 0:
        raise BadArgument(f"first_step is {first_step!r}; expected 0 or more.")
    if isinstance(stop_on, str) or set(stop_on) - set(KINDS):
        raise BadArgument(f"stop_on is {stop_on!r}; expected some of {', '.join(KINDS)}.")
    if ranks not in (True, False, "own", "collective"):
        raise BadArgument(f"ranks is {ranks!r}; expected True, False, 'own' or 'collective'.")
    if total_steps is not None and total_steps < 1:
        raise BadArgument(f"total_steps is {total_steps!r}; expected 1 or more, or None if it is not known.")


def _destinations(
    to: Target | Sequence[Target],
    on_record: Callable[[StepRecord], object] | None,
    notify: str | Sequence[str],
    notify_link: str | None,
) -> Destinations | None:
    """Where records go beside the run; None: nowhere."""
    lists_nothing = all(isinstance(one, (tuple, list)) and not one for one in (to, notify))
    if lists_nothing and on_record is None and notify_link is None:
        return None
    from gradwatch.sinks.targets import Destinations

    found = Destinations.of(to, on_record, notify, notify_link)
    found.trackers()  # raises now if one makes no sense
    return found


def _capture_options(capture: bool | CaptureOptions) -> CaptureOptions | None:
    if capture is False:
        return None
    from gradwatch.capture import CaptureOptions
    from gradwatch.capture.files import check_can_write

    if not isinstance(capture, (bool, CaptureOptions)):
        raise BadArgument(f"capture is {capture!r}; expected True, False or a gradwatch.capture.CaptureOptions.")
    check_can_write()
    return CaptureOptions() if capture is True else capture


def _policies_for(names: Sequence[str], clip: Clip) -> dict[str, Policy]:
    """A policy for each optimizer; none shares a history with another."""
    if clip is None:
        return {}
    if not isinstance(clip, Mapping):
        from gradwatch.clip.policy import Stateful

        first: Policy = clip
        clip = {
            name: first if at == 0 or not isinstance(first, Stateful) else first.fresh()
            for at, name in enumerate(names)
        }
    for name, policy in clip.items():
        if name not in names:
            raise BadArgument(f"clip has a policy for {name!r}; expected some of the optimizers {', '.join(names)}.")
        if isinstance(policy, type) or not callable(getattr(policy, "clip", None)):
            raise BadArgument(f"clip is {policy!r}; expected a policy of gradwatch.clip, for example NormClip(1.0).")
    return dict(clip)


def _step_capture(run: Path, options: RecordingOptions) -> StepCapture | None:
    """What keeps bad steps, in every rank."""
    if options.capture is None:
        return None
    from gradwatch.recording.capture.recorder import StepCapture, capture_team

    rank, ranks = (0, 1) if options.ranks == "own" else rank_and_world_size()
    # With every > 1 a rank may measure other steps than rank 0, which then keeps its part alone.
    team = capture_team(rank, ranks) if options.every == 1 else None
    return StepCapture(run, options.capture, team) if rank == 0 or team is not None else None
