"""`gradwatch.replay`: replay a captured step on its model, and find out where it went wrong."""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gradwatch.analysis.replays.result import CompiledReplay, Origin, Replay, RowFinding, write_replay
from gradwatch.capture import read_all
from gradwatch.capture.record import Capture, Group
from gradwatch.errors import CannotReplay, GradwatchError
from gradwatch.replaying.compiled import replay_compiled
from gradwatch.replaying.helps import find_helps
from gradwatch.replaying.oddities import oddities
from gradwatch.replaying.origin import Control, find_origin
from gradwatch.replaying.passes import Played, Player, prepared, total_norm
from gradwatch.replaying.recurrence import Comparison, compare
from gradwatch.replaying.rows import Rows, find_rows, groups_with_others
from gradwatch.text import fault_text
from gradwatch.version import __version__

logger = logging.getLogger("gradwatch")

ControlBatch: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Capture | None
"""A healthy batch: the model's positional arguments, its keyword arguments, or one tensor; or a capture of one."""

WRAPPERS = ("_orig_mod", "module")
MOST_ODD = 4
OUTSIDE = (
    "where in the loss: it was computed outside of the model, so that the capture holds neither its operations nor its"
    " targets. `torch.autograd.set_detect_anomaly(True)` in the script names the operation"
)


def replay(
    capture: Capture | str | PathLike[str],
    model: nn.Module,
    control: ControlBatch = None,
    *,
    write: bool = True,
    threshold: float | None = None,
) -> Replay:
    """Replay a captured step on its model, and find where it began, in which rows, and what would have helped.

    The model has the captured weights, buffers and random state meanwhile, and its own afterwards.

    Args:
        capture: a capture, or the folder of one, for example "runs/first/captures/step-000250".
        model: the model of the training, with any weights. The script's own model does.
        control: a healthy batch to compare with: a tensor, a tuple of the model's positional arguments, a mapping of
            its keyword arguments, or a capture. Without it a row that stands out is compared with the other rows.
        write: write the result as ``replay.json`` beside the capture.
        threshold: a clipping threshold to try; by default that of the capture.

    Raises:
        CannotReplay: the model is not the captured one, or the capture can't be read.

    >>> import torch
    >>> from gradwatch.replaying.example import example_capture
    >>> model = torch.nn.Linear(3, 1)
    >>> found = replay(example_capture(model, bad_row=2), model)
    >>> found.recurs, found.origin.direction, found.suspects[0].row
    ('bitwise', 'input', 2)
    """
    if not isinstance(capture, Capture):
        capture = read_capture(Path(fspath(capture)))
    try:
        model, capture = captured_module(model, capture)
        with prepared(model, capture) as player:
            found = _found(player, control, threshold)
    except GradwatchError:
        raise
    except Exception as error:  # a capture from elsewhere may hold anything
        logger.debug("while replaying", exc_info=error)
        raise CannotReplay(f"The capture can't be replayed on this model: {fault_text(error, 160)}.") from error
    if write and capture.folder is not None:
        try:
            write_replay(found, capture.folder)
        except OSError as error:
            logger.warning("gradwatch: the result is not kept beside the capture: %s", error)
    return found


def read_capture(folder: Path) -> Capture:
    """The capture in a folder.

    Raises:
        CannotReplay: there is none that can be read.
    """
    try:
        return read_all(folder)
    except GradwatchError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise CannotReplay(f"{str(folder)!r} holds no capture that can be read: {error}") from error


def captured_module(model: nn.Module, capture: Capture) -> tuple[nn.Module, Capture]:
    """The module that was called, and the capture with the names that it uses.

    It is the model, what a wrapper holds, or the captured part of it. If several modules of the model were called,
    it is the model.
    """
    called = {forward.module for group in capture.groups for forward in group.forwards}
    root = called.pop() if len(called) == 1 else ""
    part = part_of(capture, root)
    wanted = shapes_of(part)
    for candidate in _unwrapped(model):
        for one in (candidate, dict(candidate.named_modules()).get(root)):
            if one is not None:
                own = _shapes(one.named_parameters())
                if wanted.items() <= own.items() and (not (part.weights or part.parameters) or len(own) == len(wanted)):
                    return one, part
    return model, part


def shapes_of(capture: Capture) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that the captured model has, or of those that are known; by name."""
    return _shapes(capture.weights.items()) or dict(capture.parameters) or _shapes(capture.gradients.items())


def _unwrapped(model: nn.Module) -> list[nn.Module]:
    """The model, and what wrappers hold, the outermost first."""
    found = [model]
    for wrapper in found:
        found += [inner for name in WRAPPERS if isinstance(inner := getattr(wrapper, name, None), nn.Module)]
    return found


def _shapes(named: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in named}


def part_of(capture: Capture, root: str) -> Capture:
    """The capture as one of this module of the model alone; a gradient of another keeps its name."""
    if not root:
        return capture
    prefix = f"{root}."

    def within(named: Mapping[str, Any]) -> dict[str, Any]:
        return {name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)}

    groups = tuple(
        Group(
            forwards=tuple(
                dataclasses.replace(
                    forward,
                    module="",
                    buffers=within(forward.buffers),
                    training={"": forward.training.get("", True)} | within(forward.training),
                )
                for forward in group.forwards
            ),
            rank=group.rank,
        )
        for group in capture.groups
    )
    gradients = {name.removeprefix(prefix): one for name, one in capture.gradients.items()}
    return dataclasses.replace(
        capture,
        groups=groups,
        weights=within(capture.weights),
        parameters=within(capture.parameters),
        gradients=gradients,
        root="",
    )


# ------------------------------------------------------------------------------------- the questions


def _found(player: Player, control: ControlBatch, threshold: float | None) -> Replay:
    capture = player.capture
    base = _base(capture)
    if not capture.replayable or not capture.groups:
        return dataclasses.replace(base, unknown=("everything: the capture can't be replayed", *capture.not_kept))
    try:
        played = player.play()
    except CannotReplay:
        raise
    except Exception as error:  # of the model
        return dataclasses.replace(
            base, unknown=(f"everything: the replay failed: {fault_text(error, 160)}",), notes=_other_model(player)
        )
    compared = compare(capture.gradients, played.gradients)
    base = _with_recurrence(base, player, played, compared)
    if capture.is_compiled:
        base = _with_compiled(player, played, base)
    if compared.recurs == "no":
        return dataclasses.replace(base, unknown=(*base.unknown, *_why_not_again(capture, compared, base.compiled)))
    return _explained(player, played, base, control, threshold)


def _explained(player: Player, played: Played, base: Replay, control: ControlBatch, threshold: float | None) -> Replay:
    capture = player.capture
    unknown, notes = list(base.unknown), list(base.notes)
    rows = find_rows(player, played)
    origin = _origin_of(player, played, rows, control, unknown)
    if origin is not None and origin.direction == "loss":
        unknown.append(OUTSIDE)
    threshold = capture.max_norm if threshold is None else threshold
    helps, untried = find_helps(player, rows, played.total_norm, threshold)
    first = next((batch for batch in rows.batches if batch is not None), None)
    return dataclasses.replace(
        base,
        origin=origin,
        batch_dimension=None if first is None else first.dimension,
        batch_size=None if first is None else first.size,
        micro_batches=len(rows.forwards),
        rows=_row_findings(player, rows, of_loss=origin is None or origin.direction == "loss"),
        rows_mix=next((batch.mixed_in for batch in rows.batches if batch and batch.mixed_in is not None), None),
        rows_spread=rows.spread,
        helps=tuple(helps),
        unknown=(*unknown, *rows.unknown, *untried),
        notes=(*notes, *rows.notes),
    )


def _base(capture: Capture) -> Replay:
    return Replay(
        run=capture.run,
        step=capture.step,
        optimizer=capture.optimizer,
        why=capture.why,
        kept=dict(capture.kept),
        not_kept=capture.not_kept,
        ranks=capture.ranks,
        parts=capture.parts or (capture.rank,),
        captured_norm=total_norm(capture.gradients.values()) if capture.gradients else capture.total_norm,
        environment=environment(),
        unknown=() if capture.weights else ("the weights were not kept: the model's own were used",),
    )


def environment() -> dict[str, str]:
    """What bears on the numbers of a replay, by name."""
    return {
        "gradwatch": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": str(torch.version.cuda),
    }


def _with_recurrence(base: Replay, player: Player, played: Played, compared: Comparison) -> Replay:
    unknown = base.unknown
    if compared.recurs is None:
        unknown = (*unknown, f"whether it happens again: {_why_not_compared(player.capture)}")
    notes = () if compared.recurs == "bitwise" else (*_other_versions(base, player.capture), *_other_model(player))
    return dataclasses.replace(
        base,
        recurs=compared.recurs,
        max_ulp=compared.max_ulp,
        unexplained=compared.unexplained,
        differing=compared.differing,
        replayed_norm=played.total_norm,
        unknown=unknown,
        notes=notes,
    )


def _other_versions(base: Replay, capture: Capture) -> tuple[str, ...]:
    versions = [
        f"{name} {capture.versions[name]} then, {now} now"
        for name, now in base.environment.items()
        if name in ("torch", "cuda") and name in capture.versions and capture.versions[name] != now
    ]
    return ("other versions: " + "; ".join(versions),) if versions else ()


def _other_model(player: Player) -> tuple[str, ...]:
    """In what the model differs from the captured one: the type of its weights, and the kind of its devices."""
    notes = []
    for name, parameter in player.model.named_parameters():
        kept = player.capture.weights.get(name)
        if kept is not None and kept.dtype != parameter.dtype:
            was, now = (str(one.dtype).removeprefix("torch.") for one in (kept, parameter))
            notes.append(f"other types: {name} was {was} then, and is {now} now")
            break
    was_on = {device.partition(":")[0] for device in player.capture.devices}
    now_on = {parameter.device.type for parameter in player.model.parameters()}
    if was_on and was_on != now_on:
        notes.append(f"other devices: {', '.join(sorted(was_on))} then, {', '.join(sorted(now_on))} now")
    return tuple(notes)


def _why_not_compared(capture: Capture) -> str:
    if capture.gradients and not _missing_ranks(capture):
        return "the gradients have other shapes"
    missing = _missing_ranks(capture)
    if capture.reduction is None or not missing or not capture.parts:
        return "the gradients were not kept"
    return (
        f"the gradients are the mean over {capture.ranks} ranks, and of rank {', '.join(map(str, missing))} no capture"
        " is here; what follows is of the others"
    )


def _missing_ranks(capture: Capture) -> list[int]:
    """The processes whose captures are not here."""
    return sorted(set(range(capture.ranks)) - set(capture.parts))


def _with_compiled(player: Player, played: Played, base: Replay) -> Replay:
    try:
        return dataclasses.replace(base, compiled=replay_compiled(player, played))
    except Exception as error:  # of the compiler, or of the model
        return dataclasses.replace(
            base, unknown=(*base.unknown, f"compiled: it can't be compiled here: {fault_text(error, 160)}")
        )


def _why_not_again(capture: Capture, compared: Comparison, compiled: CompiledReplay | None) -> tuple[str, ...]:
    if compiled is not None and compiled.recurs in ("bitwise", "close"):
        reason = (
            "where it began and in which rows: only the compiled model gives this gradient, and operations of compiled"
            " code can't be followed"
        )
        return (reason, *capture.not_kept)
    where = f", most in {compared.differing[0]}" if compared.differing else ""
    reason = (
        f"where it began and in which rows: the model, its inputs and the gradients of its outputs do not give this"
        f" gradient{where}. Something else changed it: a term of the loss beside the model, a hook, weights that"
        " changed between forward and step, an operation that is not deterministic, or the hardware"
    )
    return (reason, *capture.not_kept)


# --------------------------------------------------------------------------------- where it begins


def _origin_of(player: Player, played: Played, rows: Rows, given: ControlBatch, unknown: list[str]) -> Origin | None:
    weights = _bad_weight(player)
    if weights is not None:
        return weights
    nonfinite = not math.isfinite(played.total_norm)
    try:
        trace = player.trace()
        for control in _controls(player, rows, given, nonfinite):
            if control is None and not nonfinite:
                continue
            found = find_origin(trace, control, nonfinite=nonfinite)
            if found is not None:
                return found
    except Exception as error:  # a tensor subclass may refuse a dispatch mode in any way
        unknown.append(f"where it began: operations can't be followed: {fault_text(error, 160)}")
        return None
    unknown.append(_why_no_origin(rows, given, nonfinite))
    return None


def _why_no_origin(rows: Rows, given: ControlBatch, nonfinite: bool) -> str:
    if nonfinite:
        return "where it began: no operation gave the first NaN or infinity"
    if given is None and not rows.suspects:
        return "where it began: no row stands out and no healthy batch was given to compare with (control=)"
    return "where it began: no operation is far larger than in the control; the growth is spread over many"


def _bad_weight(player: Player) -> Origin | None:
    for name, parameter in player.model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            module = player.model.get_submodule(name.rpartition(".")[0])
            return Origin(direction="weights", module=name, class_name=type(module).__name__, observed=math.nan)
    return None


def _controls(player: Player, rows: Rows, given: ControlBatch, nonfinite: bool) -> Any:
    """Healthy replays to compare with, the best first, made when they are asked for; None is none at all."""
    if rows.suspects:
        groups = groups_with_others(rows, player.capture.groups)
        if groups is not None and (rows.norm_without is None or math.isfinite(rows.norm_without)):
            yield Control(trace=player.trace(groups), name=f"the batch without {rows.suspect_names}")
    if given is not None:
        groups, has_loss = control_groups(player, given)
        if not nonfinite or math.isfinite(player.play(groups).total_norm):
            yield Control(trace=player.trace(groups), name="the healthy batch", has_loss=has_loss)
    yield None


def control_groups(player: Player, given: ControlBatch) -> tuple[tuple[Group, ...], bool]:
    """A healthy batch as groups of forwards, and whether its output gradients are its own."""
    if isinstance(given, Capture):
        return given.groups, True
    first = player.capture.groups[0].forwards[0]
    args, kwargs = _arguments(given)
    forward = dataclasses.replace(first, args=args, kwargs=kwargs, devices=())
    outputs = player.forward(forward)
    gradients = tuple(_like(output, kept) for output, kept in zip(outputs, first.output_gradients, strict=True))
    is_scalar = all(output.dim() == 0 for output, one in zip(outputs, gradients, strict=True) if one is not None)
    return (Group(forwards=(dataclasses.replace(forward, output_gradients=gradients),)),), is_scalar


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
        return given[0], given[1]
    return (given if isinstance(given, tuple) else (given,)), {}


def _like(output: Tensor, kept: Tensor | None) -> Tensor | None:
    """A gradient for a control's output: the kept one where it fits, else noise as large as its finite entries."""
    if kept is None:
        return None
    if kept.dim() == 0 and output.dim() == 0:
        return kept
    finite = kept[kept.isfinite()].double()
    size = float(finite.abs().median()) if finite.numel() else 1.0
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return (noise * (size or 1.0)).to(output.device, output.dtype)


# ------------------------------------------------------------------------------------------- rows


def _row_findings(player: Player, rows: Rows, *, of_loss: bool) -> tuple[RowFinding, ...]:
    found = []
    described = 0
    ranks = [group.rank for group in player.capture.groups for _ in group.forwards]
    for part in rows.parts:
        batch = rows.batches[part.micro_batch]
        odd: tuple[str, ...] = ()
        if part.stands_out and batch is not None and described < MOST_ODD:
            described += 1
            odd = oddities(rows.forwards[part.micro_batch], batch, part.row, player.model, of_loss=of_loss)
        found.append(
            RowFinding(
                row=part.row,
                micro_batch=part.micro_batch - ranks.index(ranks[part.micro_batch]),
                rank=ranks[part.micro_batch],
                norm=part.norm,
                share=part.share,
                norm_without=part.norm_without,
                stands_out=part.stands_out,
                odd=odd,
            )
        )
    return tuple(found)
