"""Opens the sink of a recording: the recorder and its store in rank 0, elsewhere what sends the steps there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.distributed import rank_and_world_size
from gradwatch.errors import BadArgument, RecorderProcessFailed, ShardedParameters
from gradwatch.measure import copies_behind, count_unknown_parts, is_on_host
from gradwatch.record import STATS, Event
from gradwatch.recording.loops import Loop
from gradwatch.recording.meta import meta_of_attempt, meta_of_run
from gradwatch.recording.mirror import event_files
from gradwatch.recording.options import RecorderKind, RecordingOptions
from gradwatch.recording.parameters import Trained, listed, sharding_of
from gradwatch.recording.recorder import Recorder
from gradwatch.recording.sink import NullSink, StepSink
from gradwatch.store import StoreWriter

# A training imports only what its options ask for: functions import the rest.
if TYPE_CHECKING:
    from gradwatch.clip import Policy
    from gradwatch.distributed import Mailbox, RankGatherer
    from gradwatch.recording.process.sink import ProcessSink
    from gradwatch.sinks.feed import Feeds
    from gradwatch.sinks.tracker import RunFacts

logger = logging.getLogger("gradwatch")

QUEUE_BYTES = 64 * 2**20  # of steps that wait to be written
MOST_QUEUED, LEAST_QUEUED = 10_000, 64
RING_BYTES, RING_STEPS = 16 * 2**20, 16  # room for steps that the recorder's process has not taken yet, at least
STEP_BYTES = 12 * 8  # of one parameter at a step that has every statistic


class OpenedSink(NamedTuple):
    """A sink, and in rank 0 the writer behind it."""

    sink: StepSink
    world_size: int
    mailbox: Mailbox | None = None
    writer: StoreWriter | None = None
    team: RankGatherer | None = None
    process: ProcessSink | None = None

    def begin(self, loops: Sequence[Loop], options: RecordingOptions) -> None:
        """All optimizers are in: tell the ranks, and write down where the attempt begins."""
        first_steps = {loop.tracker.name: loop.tracker.step for loop in loops}
        if self.team is not None:
            self.team.open(first_steps)
        is_heard = not isinstance(self.sink, NullSink)
        if self.mailbox is not None and is_heard and options.ranks == "collective":
            self._open_collective(self.mailbox, loops, options.every)
        if self.process is not None:
            attempt = self.process.link.attempt
            resumed = _resumed(loops[0].tracker.step, attempt) if attempt > 0 else None
            self.process.opened(options.first_step, resumed, first_steps)
        if self.writer is None:
            return
        if options.first_step is not None:
            self.writer.set_first_step(options.first_step)
        if self.writer.attempt > 0:
            self.writer.append([], [_resumed(loops[0].tracker.step, self.writer.attempt)])

    def _open_collective(self, mailbox: Mailbox, loops: Sequence[Loop], every: int) -> None:
        """Let the ranks add up their numbers, if all of them want to."""
        from gradwatch.distributed import JoinedParts, Names, RankCollective, agree
        from gradwatch.recording.rank_sender import RankSender

        trackers = {loop.tracker.name: loop.tracker for loop in loops}
        own = [JoinedParts(name, 0, tuple(tracker.parts)) for name, tracker in trackers.items()]
        names = {} if mailbox.rank else {name: Names.of(tracker.infos) for name, tracker in trackers.items()}
        why = "not every rank is attached with it"
        plans = agree(mailbox, self.world_size, own, names)
        try:
            collective = None if plans is None else RankCollective(mailbox, self.world_size, plans, every)
        except Exception as error:
            collective, why = None, str(error)
        if collective is None or plans is None:
            logger.warning(
                "The ranks do not add up their numbers by a collective: %s. The numbers go through the key-value store,"
                " as with ranks=True (collective-ended)",
                why,
            )
        elif isinstance(self.sink, Recorder):
            self.sink.share_by(collective, {name: plan.infos for name, plan in plans.items()})
        elif isinstance(self.sink, RankSender):
            self.sink.share_by(collective)


def open_sink(trained: Trained, run: Path, options: RecordingOptions, policies: Mapping[str, Policy]) -> OpenedSink:
    """In rank 0 the recorder; elsewhere the sender to it, if rank 0 wants to know."""
    rank, world_size = (0, 1) if options.ranks == "own" else rank_and_world_size()
    is_sharded, is_flat = sharding_of(trained.values())
    is_joint = world_size > 1 and (bool(options.ranks) or is_sharded)
    if rank == 0 and world_size > 1:
        _say_unknown_parts(trained, experts=not options.ranks)  # else each rank's are recorded by their names
    if is_sharded:
        _check_own_ranks(options)
    if is_joint and is_flat:
        _check_only_recorded(options, policies)
    if options.recorder == "process":
        _check_process(trained, options)
    join = partial(_open_mailbox, rank, is_sharded, is_joint=is_joint)
    if rank:
        mailbox = join()
        sink = _open_sender(mailbox, trained, run, options.recorder)
        return OpenedSink(sink=sink, world_size=world_size, mailbox=mailbox)
    open_here = _open_process if options.recorder == "process" else _open_recorder
    return open_here(trained, run, options, policies, join, world_size)


def _open_recorder(
    trained: Trained,
    run: Path,
    options: RecordingOptions,
    policies: Mapping[str, Policy],
    join: Callable[[], Mailbox | None],
    world_size: int,
) -> OpenedSink:
    """The recorder of rank 0 and the store behind it; ``join`` opens the way to the other ranks, if there are any."""
    writer = StoreWriter(run)
    try:
        mailbox = join()
        _begin_attempt(writer, trained, options, policies)
        if mailbox is not None:
            writer.set_meta("world_size", str(world_size))
        team = None if mailbox is None else _gatherer(mailbox, world_size)
        recorder = Recorder(
            writer,
            capacity=_capacity(trained),
            at_once=bool(options.stop_on),
            mirror=event_files(run, len(trained) > 1) if options.tensorboard else None,
            team=team,
            feeds=_feeds(run, trained, options),
        )
    except BaseException:
        writer.abort()
        raise
    return OpenedSink(sink=recorder, world_size=world_size, mailbox=mailbox, writer=writer, team=team)


def _gatherer(mailbox: Mailbox, world_size: int) -> RankGatherer:
    from gradwatch.distributed import RankGatherer

    return RankGatherer(mailbox, world_size)


def _begin_attempt(
    writer: StoreWriter, trained: Trained, options: RecordingOptions, policies: Mapping[str, Policy]
) -> None:
    writer.begin_attempt(meta_of_run(trained, options, policies) | {"journal_mode": writer.journal_mode}, {})
    for key, value in meta_of_attempt(options).items():
        writer.set_meta(key, value)


def _check_process(trained: Trained, options: RecordingOptions) -> None:
    """See that a process can record all of this.

    Raises:
        BadArgument: it can't.
    """
    parameters = [parameter for _, one in trained.values() for parameter in listed(one)]
    here = "" if options.destinations is None else options.destinations.of_this_process
    for is_so, why in (
        (os.name != "posix", "needs Linux or macOS"),
        (options.ranks == "collective", "can't add up the parts of several ranks by a collective"),
        (bool(here), f"can't call {here}, which belongs to the training's process"),
        (not all(is_on_host(p) or copies_behind(p.device) for p in parameters), "can't read this device in time"),
    ):
        if is_so:
            raise BadArgument(f'recorder is "process", which {why}. Leave it out: the default is a thread.')


def _open_process(
    trained: Trained,
    run: Path,
    options: RecordingOptions,
    policies: Mapping[str, Policy],
    join: Callable[[], Mailbox | None],
    world_size: int,
) -> OpenedSink:
    """The recorder's process of rank 0; ``join`` opens the way to the other ranks, if there are any."""
    from gradwatch.recording.process.link import RecorderLink
    from gradwatch.recording.process.sink import ProcessSink

    mailbox = join()
    facts = _facts_of_process(trained) | {
        "run": str(run),
        "meta": meta_of_run(trained, options, policies),
        "settings": meta_of_attempt(options),
        "at_once": bool(options.stop_on),
        "tensorboard": options.tensorboard,
        "several": len(trained) > 1,
        "destinations": None if options.destinations is None else options.destinations.plain(),
        "world_size": 1 if mailbox is None else world_size,
        "office": None,
    }
    link = RecorderLink(run, _room(trained), facts)
    sink = ProcessSink(link, run, at_once=bool(options.stop_on), mailbox=mailbox)
    return OpenedSink(sink=sink, world_size=world_size, process=sink)


def _facts_of_process(trained: Trained) -> dict[str, Any]:
    """What the recorder's process of every rank has to know."""
    return {"capacity": _capacity(trained), "level": logger.getEffectiveLevel()}


def _room(trained: Trained) -> int:
    """Bytes for what the recorder's process has not taken yet."""
    count = sum(len(listed(one)) for _, one in trained.values())
    return max(RING_BYTES, RING_STEPS * count * STEP_BYTES)


def _capacity(trained: Trained) -> int:
    """The number of steps that may wait for the disk."""
    count = sum(len(listed(one)) for _, one in trained.values())
    return max(LEAST_QUEUED, min(MOST_QUEUED, QUEUE_BYTES // (max(1, count) * 4 * len(STATS))))


def _check_own_ranks(options: RecordingOptions) -> None:
    if options.ranks == "own" and rank_and_world_size()[1] > 1:
        raise ShardedParameters('ranks is "own", and this process holds only a part of some parameters. Leave it out.')


def _check_only_recorded(options: RecordingOptions, policies: Mapping[str, Policy]) -> None:
    if policies or options.skip_nonfinite:
        raise ShardedParameters(
            "FSDP1 or a tensor-parallel layer cuts these parameters into plain tensors, which gradwatch can record but"
            " not clip or skip."
            " Leave clip= and skip_nonfinite= out and call the model's own clip_grad_norm_, or use fully_shard."
        )


def _open_sender(mailbox: Mailbox | None, trained: Trained, run: Path, recorder: RecorderKind) -> StepSink:
    """What sends the steps of this process to rank 0, by the way that rank 0 has announced."""
    if mailbox is None:
        return NullSink()
    from gradwatch.distributed import Address, Mailbox, reach_office
    from gradwatch.distributed.mailbox import RANK_0_WITHIN

    first_steps = mailbox.announced("open", RANK_0_WITHIN)
    if first_steps is None:
        _say_not_attached()
        return NullSink()
    office = mailbox.announced("office")
    if recorder == "process" and office is not None:
        from gradwatch.recording.process.link import RecorderLink
        from gradwatch.recording.process.sink import SendingSink

        facts = _facts_of_process(trained) | {
            "rank": mailbox.rank,
            "at_once": False,
            "office": office,
            "store_host": mailbox.host,
        }
        return SendingSink(RecorderLink(run, _room(trained), facts), run, mailbox, first_steps)
    if office is not None:
        address = Address(*office)
        try:
            mailbox = Mailbox(mailbox.rank, reach_office(address, address.ways(mailbox.host)))
        except OSError as error:
            raise RecorderProcessFailed(f"The recorder's process of rank 0 can't be reached: {error}.") from error
    elif recorder == "process":
        logger.warning("The recorder of rank 0 is a thread, and so is that of this rank (recorder-process)")
    from gradwatch.recording.rank_sender import RankSender

    return RankSender(mailbox, first_steps, _capacity(trained))


def _open_mailbox(rank: int, is_sharded: bool, *, is_joint: bool) -> Mailbox | None:
    """The way to the other ranks; None if they record no run together with this one, or can't be reached."""
    if not is_joint:
        return None
    from gradwatch.distributed import Mailbox, Rank0NotAttached

    try:
        return Mailbox(rank)
    except Rank0NotAttached:
        _say_not_attached()
        return None
    except Exception as error:
        if is_sharded:
            raise ShardedParameters(
                "Parameters are sharded over processes, and gradwatch can't combine the shards:"
                f" torch.distributed has no store here ({error}). Train without gradwatch, or by DDP."
            ) from error
        logger.warning("gradwatch can't hear the other ranks: %s (ranks-not-heard)", error)
        return None


def _say_not_attached() -> None:
    logger.warning("gradwatch is not attached in rank 0, so this rank records nothing (rank-silent)")


def _say_unknown_parts(trained: Trained, *, experts: bool) -> None:
    unknown = sum(count_unknown_parts(model, experts=experts) for model, _ in trained.values())
    if unknown:
        logger.warning(
            "%d parameters are marked as parts, or as experts of some ranks (tensor_model_parallel, allreduce), and"
            " gradwatch can't tell which part this is. Norms are those of rank 0's parts alone (unknown-parts)",
            unknown,
        )


def _feeds(run: Path, trained: Trained, options: RecordingOptions) -> Feeds | None:
    if options.destinations is None:
        return None
    from gradwatch.sinks.feed import Feeds

    return Feeds(options.destinations.trackers(), _facts(run, trained, options))


def _facts(run: Path, trained: Trained, options: RecordingOptions) -> RunFacts:
    from gradwatch.sinks.tracker import RunFacts

    config = {} if options.config is None else json.loads(options.config)
    return RunFacts(path=run, config=config, several=len(trained) > 1)


def _resumed(step: int, attempt: int) -> Event:
    message = f"training was resumed at step {step} (attempt {attempt})"
    return Event(step=step, kind="resumed", severity="info", message=message, attempt=attempt)
