"""What the replay of a captured step found, as data and as the JSON of `gradwatch replay --json`.

A result is written as ``replay.json`` beside its capture. Reading it needs no torch.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from gradwatch.capture.listing import FOLDER, MOST_RANKS, number

Recurrence: TypeAlias = Literal["bitwise", "close", "norm", "no"]
"""How much of the captured gradient a replay gives again."""

Direction: TypeAlias = Literal["forward", "backward", "weights", "input", "loss"]
"""Where a fault begins; "loss": in the gradient that reaches the model's output from outside."""

FILE_NAME = "replay.json"
LARGEST_FILE = 4 * 2**20
LARGEST_FILES = 4 * LARGEST_FILE
"""Of all results of a run together."""

MOST_READ = 1000
"""Of each list of a result; gradwatch itself writes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The place where a fault begins.

    Attributes:
        direction: in the forward pass, in the backward pass, or before both: in weights, an input or the loss.
        module: the module's name; "" is the model itself, None is not known. Of weights, the parameter; of an
            input, the argument.
        class_name: the module's class.
        operation: the operator, for example "aten.sqrt"; in the backward pass the one whose gradient it is.
        file, line, code: the line that called it.
        observed, control: largest magnitude there, and in a healthy batch; None where not known.
        control_is: what the control is, in words.
    """

    direction: Direction
    module: str | None = None
    class_name: str | None = None
    operation: str | None = None
    file: str | None = None
    line: int | None = None
    code: str | None = None
    observed: float | None = None
    control: float | None = None
    control_is: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFinding:
    """One row of a micro-batch.

    Attributes:
        row: its index along the batch dimension, counted from 0.
        micro_batch: the forward of its process that it is of, counted from 0.
        rank: the process whose micro-batch it is in.
        norm: L2 norm of its part of the gradient; NaN or infinite if that part is.
        share: its part of the squared norm, ``<g_row, g> / |g|^2``; None if the gradient is not finite.
        norm_without: the total norm without this row, or without all rows that stand out if it is one of several
            non-finite ones; None where not known.
        stands_out: whether its part is far larger than that of the other rows.
        odd: what its inputs have that those of other rows do not.
    """

    row: int
    micro_batch: int = 0
    rank: int = 0
    norm: float
    share: float | None = None
    norm_without: float | None = None
    stands_out: bool = False
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """A change, and the total norm of the step with it."""

    change: str
    total_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledReplay:
    """What a compiled model gave, beside the eager replay.

    Attributes:
        recurs: how much of the captured gradient it gives again; None if there is nothing to compare.
        max_ulp: largest difference from the captured gradient, in units in the last place of its parameter's largest
            entry.
        total_norm: L2 norm over its gradients.
        differs: whether it is not equal bit for bit to the eager replay.
        max_ulp_from_eager: largest difference from the eager replay, in the same units; None if not finite.
    """

    recurs: Recurrence | None = None
    max_ulp: float | None = None
    total_norm: float | None = None
    differs: bool = False
    max_ulp_from_eager: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the replay of one captured step found.

    Attributes:
        run, step, optimizer, why: of the capture.
        kept, not_kept: of the capture.
        ranks: how many processes trained.
        parts: those of them whose captures were replayed.
        captured_norm: L2 norm over the gradients of the training, before clipping.
        replayed_norm: L2 norm over the gradients of the replay.
        recurs: None if it can't be told.
        max_ulp: largest difference, in units in the last place of its parameter's largest entry.
        unexplained: ``|captured - replayed| / |captured|``; None if the gradients are not finite.
        differing: the parameters whose gradients differ most.
        compiled: of a model that was compiled, what it gives compiled; None if it was not, or can't be here.
        origin: None if it is not known.
        batch_dimension, batch_size: of the first micro-batch; None if the model's inputs have none.
        rows: the largest first.
        rows_mix: the module in which rows come to depend on each other; None if they do not.
        rows_spread: whether no row stands out.
        helps: changes, and the total norm that each leads to.
        unknown: why something could not be told.
        notes: what else is worth knowing.
        environment: versions and devices of the replay.
    """

    run: str
    step: int
    optimizer: str
    why: str
    kept: Mapping[str, object] = field(default_factory=dict)
    not_kept: tuple[str, ...] = ()
    ranks: int = 1
    parts: tuple[int, ...] = (0,)
    captured_norm: float | None = None
    replayed_norm: float | None = None
    recurs: Recurrence | None = None
    max_ulp: float | None = None
    unexplained: float | None = None
    differing: tuple[str, ...] = ()
    compiled: CompiledReplay | None = None
    origin: Origin | None = None
    batch_dimension: int | None = None
    batch_size: int | None = None
    micro_batches: int = 1
    rows: tuple[RowFinding, ...] = ()
    rows_mix: str | None = None
    rows_spread: bool = False
    helps: tuple[Help, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def suspects(self) -> tuple[RowFinding, ...]:
        """The rows that stand out."""
        return tuple(row for row in self.rows if row.stands_out)

    def as_dict(self) -> dict[str, Any]:
        """The JSON contract of `gradwatch replay --json`. NaN and infinities stay numbers here."""
        found = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        if self.origin is not None:
            found["origin"]["class"] = found["origin"].pop("class_name")
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Origin | RowFinding | Help | CompiledReplay):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value


# ----------------------------------------------------------------------------------------- reading


def replay_from(data: Mapping[str, Any]) -> Replay:
    """Make a result of its JSON. Unknown keys are passed over.

    Raises:
        KeyError, TypeError, ValueError: it is no such JSON.

    >>> replay_from({"run": "runs/a", "step": 3, "optimizer": "0", "why": "nonfinite", "recurs": "bitwise"}).recurs
    'bitwise'
    """
    given = dict(data)
    needed = {name: read(given[name]) for name, read in _NEEDED.items()}
    cut = {name: len(one) for name, one in given.items() if name in _CUT and len(one or ()) > MOST_READ}
    given |= {name: given[name][:MOST_READ] for name in cut}
    found = Replay(**needed, **{name: read(given.get(name)) for name, read in _OPTIONAL.items()})
    notes = tuple(f"of {size} entries of {name}, the first {MOST_READ} were read" for name, size in cut.items())
    return replace(found, notes=(*notes, *found.notes))


def _origin(data: Mapping[str, Any] | None) -> Origin | None:
    if data is None:
        return None
    if data["direction"] not in get_args(Direction):
        raise ValueError(f"no direction: {data['direction']!r}")
    names = ("module", "operation", "file", "code", "control_is")
    return Origin(
        direction=data["direction"],
        class_name=_text(data.get("class")),
        line=_whole(data.get("line")),
        observed=number(data.get("observed")),
        control=number(data.get("control")),
        **{name: _text(data.get(name)) for name in names},
    )


def _compiled(data: Mapping[str, Any] | None) -> CompiledReplay | None:
    if data is None:
        return None
    return CompiledReplay(
        recurs=_recurrence(data.get("recurs")),
        differs=bool(data.get("differs")),
        **{name: number(data.get(name)) for name in ("max_ulp", "total_norm", "max_ulp_from_eager")},
    )


def _row(data: Mapping[str, Any]) -> RowFinding:
    return RowFinding(
        row=int(data["row"]),
        micro_batch=int(data.get("micro_batch") or 0),
        rank=int(data.get("rank") or 0),
        norm=number(data["norm"]) or 0.0,
        share=number(data.get("share")),
        norm_without=number(data.get("norm_without")),
        stands_out=bool(data.get("stands_out")),
        odd=_texts(data.get("odd")),
    )


def _rows(data: Sequence[Mapping[str, Any]] | None) -> tuple[RowFinding, ...]:
    return tuple(map(_row, data or ()))


def _helps(data: Sequence[Mapping[str, Any]] | None) -> tuple[Help, ...]:
    return tuple(Help(change=str(one["change"]), total_norm=number(one["total_norm"]) or 0.0) for one in data or ())


def _ranks(value: Any) -> int:
    ranks = int(value or 1)
    if not 1 <= ranks <= MOST_RANKS:
        raise ValueError(f"no number of processes: {ranks}")
    return ranks


def _recurrence(value: Any) -> Recurrence | None:
    return value if value in get_args(Recurrence) else None


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _facts(value: Any) -> dict[str, str]:
    return {key: str(one) for key, one in _mapping(value).items()}


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value or ())


def _at_least_one(value: Any) -> int:
    return int(value or 1)


def _parts(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value or (0,))


_NEEDED: dict[str, Callable[[Any], Any]] = {"run": str, "step": int, "optimizer": str, "why": str}
"""How a field of `Replay` is read from its JSON, where each result has it."""

_OPTIONAL: dict[str, Callable[[Any], Any]] = {
    "kept": _mapping,
    "not_kept": _texts,
    "ranks": _ranks,
    "parts": _parts,
    "captured_norm": number,
    "replayed_norm": number,
    "recurs": _recurrence,
    "max_ulp": number,
    "unexplained": number,
    "differing": _texts,
    "compiled": _compiled,
    "origin": _origin,
    "batch_dimension": _whole,
    "batch_size": _whole,
    "micro_batches": _at_least_one,
    "rows": _rows,
    "rows_mix": _text,
    "rows_spread": bool,
    "helps": _helps,
    "unknown": _texts,
    "notes": _texts,
    "environment": _facts,
}
"""How the other fields are read; each reader gets None if the JSON lacks the field."""


_CUT = ("rows", "helps", "not_kept", "differing", "unknown", "notes")


def read_replay(folder: Path) -> Replay | None:
    """The result beside a capture; None if there is none, or if the file is damaged."""
    path = folder / FILE_NAME
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_FILE:  # a pipe would be waited for
            return None
        return replay_from(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_replays(run: Path) -> tuple[Replay, ...]:
    """Every result of a run, by step. ``run`` is the run's folder, or its store.

    Results beyond `LARGEST_FILES` bytes are left out, and the last one that was read says so.
    """
    found, left, left_out = [], LARGEST_FILES, 0
    for file in result_files(run.parent if run.is_file() else run):
        size = _size_of(file)
        if size > left:
            left_out += 1
        elif size and (one := read_replay(file.parent)) is not None:
            found.append(one)
            left -= size
    found.sort(key=lambda one: one.step)
    if found and left_out:
        told = f"{left_out} more results of replays were not read: they are too large"
        found[-1] = replace(found[-1], notes=(*found[-1].notes, told))
    return tuple(found)


def result_files(run: Path) -> list[Path]:
    """Where the results of replays of a run are, or would be."""
    try:
        return sorted(entry / FILE_NAME for entry in (run / FOLDER).iterdir())
    except OSError:
        return []


def _size_of(path: Path) -> int:
    """In bytes; 0 if it is no plain file."""
    try:
        about = path.lstat()
    except OSError:
        return 0
    return about.st_size if stat.S_ISREG(about.st_mode) else 0


def write_replay(replay: Replay, folder: Path) -> Path:
    """Write the result beside its capture, in one move, and return the file."""
    path, new = folder / FILE_NAME, folder / f".{FILE_NAME}.new"
    new.write_text(json.dumps(_json(replay.as_dict()), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(path)
    return path


def _json(value: Any) -> Any:
    """The same with strings for the numbers that JSON lacks, and for values that it can't hold."""
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, str | int | float) else str(value)


def of_event(replays: Sequence[Replay], step: int, optimizer: str, until: int | None = None) -> Replay | None:
    """The result that belongs to an event: the first of the same optimizer at one of its steps."""
    last = step if until is None else until
    return next((one for one in replays if one.optimizer == optimizer and step <= one.step <= last), None)
