"""The wording of a replay's result, the same in every view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradwatch.analysis.replays.result import CompiledReplay, Origin, Replay, RowFinding
from gradwatch.text import number, printable, share


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with the question that it answers."""

    label: str
    text: str
    is_known: bool = True


def answers(replay: Replay) -> tuple[Answer, ...]:
    """Every answer, in the order in which they are asked."""
    found = [_again(replay), *_began(replay), *_which_rows(replay)]
    if replay.compiled is not None:
        found.insert(1, _compiled(replay.compiled))
    if replay.ranks > 1:
        found.insert(1, _whose(replay))
    odd = [Answer(f"row {row.row}", "; ".join(row.odd[:MOST_LISTED])) for row in replay.suspects if row.odd]
    found += odd[:MOST_LISTED]
    if replay.helps:
        told = [f"{one.change}: {_norm(one.total_norm)}" for one in replay.helps]
        found.append(Answer("norm with", " · ".join(told)))
    found += [Answer("note", note) for note in replay.notes[:MOST_LISTED]]
    found += [Answer("not known", reason, False) for reason in replay.unknown[:MOST_LISTED]]
    if len(replay.unknown) > MOST_LISTED:
        found.append(Answer("not known", f"and {len(replay.unknown) - MOST_LISTED} more reasons", False))
    return tuple(Answer(one.label, printable(_shortened(one.text)), one.is_known) for one in found)


MOST_LISTED = 20
LONGEST_TEXT = 4000


def _shortened(text: str) -> str:
    """A text of a stranger's file may be of any length."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text)} characters)"


def _listed(names: Sequence[object]) -> str:
    """The first names, and how many more there are.

    >>> _listed([1, 2]), _listed(range(22))[-14:]
    ('1, 2', ' 19 and 2 more')
    """
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(str(one) for one in names[:MOST_LISTED]) + more


def _each_once(thing: str, numbers: Sequence[int]) -> str:
    """Numbers after what they count, without repetitions.

    >>> _each_once("row", [48, 48]), _each_once("micro-batch", [0, 1])
    ('row 48', 'micro-batches 0, 1')
    """
    distinct = [*dict.fromkeys(numbers)]
    plural = "es" if thing.endswith("ch") else "s"
    return f"{thing}{plural if len(distinct) > 1 else ''} {_listed(distinct)}"


def headline(replay: Replay) -> str:
    """The replay in one sentence, for a list of events.

    >>> origin = Origin(direction="forward", module="att", operation="aten._softmax", file="/a/model.py", line=41)
    >>> row = RowFinding(row=3, norm=float("nan"), stands_out=True)
    >>> headline(Replay(run="r", step=5, optimizer="0", why="nonfinite", recurs="bitwise", origin=origin,
    ...                 batch_size=8, rows=(row,)))
    'began in att (aten._softmax, model.py:41); row 3 of 8; happens again bit for bit'
    """
    parts = []
    if replay.origin is not None:
        parts.append(_place(replay.origin))
    if replay.suspects:
        parts.append(_row_names(replay))
    elif replay.rows_spread:
        parts.append("no row stands out")
    parts.append(_RECURS_SHORT[replay.recurs])
    return printable("; ".join(parts))


_RECURS_SHORT = {
    "bitwise": "happens again bit for bit",
    "close": "happens again, not bit for bit",
    "norm": "the replay has about the same norm",
    "no": "does not happen again",
    None: "not known whether it happens again",
}


def _again(replay: Replay) -> Answer:
    here, there = _norm(replay.replayed_norm), _norm(replay.captured_norm)
    norms = f"total norm {here}, in the training {there}"
    if here == there:
        norms = "a gradient that is not finite" if here == "not finite" else f"total norm {here}"
    elsewhere = ""
    if replay.unexplained is not None and replay.unexplained > 1e-3:
        elsewhere = f"; {share(min(1.0, replay.unexplained))} of the gradient came from elsewhere"
    text = {
        "bitwise": f"yes, bit for bit: {norms}",
        "close": f"yes, within {number(replay.max_ulp)} ULP of each parameter's largest entry: {norms}",
        "norm": f"in its norm only: {norms}{elsewhere}",
        "no": f"no: {norms}{elsewhere}",
        None: "not known",
    }[replay.recurs]
    return Answer("happens again", text, replay.recurs is not None)


def _compiled(compiled: CompiledReplay) -> Answer:
    again = {
        "bitwise": "it gives the training's gradient bit for bit",
        "close": f"within {number(compiled.max_ulp)} ULP of the training's gradient",
        "norm": "about the norm of the training",
        "no": "it does not give the training's gradient",
        None: "",
    }[compiled.recurs]
    if not compiled.differs:
        beside = "equal to the eager replay bit for bit"
    else:
        ulp = compiled.max_ulp_from_eager
        by = f" by {number(ulp)} ULP" if ulp is not None else ""
        beside = f"differs from the eager replay{by}, total norm {_norm(compiled.total_norm)}"
    return Answer("compiled", "; ".join(one for one in (beside, again) if one))


def _whose(replay: Replay) -> Answer:
    there = set(replay.parts)
    missing = [rank for rank in range(replay.ranks) if rank not in there]
    if not missing:
        return Answer("ranks", f"the captures of all {replay.ranks} ranks were replayed in one process")
    told = (
        f"of {replay.ranks}, the captures of {_listed(replay.parts)} were replayed; of {_listed(missing)} there is none"
    )
    return Answer("ranks", told, False)


def _began(replay: Replay) -> list[Answer]:
    if replay.origin is None:
        return [Answer("began in", "not known", False)]
    origin = replay.origin
    text = _place(origin).removeprefix("began in ")
    if origin.observed is not None:
        text += f": largest magnitude {_norm(origin.observed)}"
        if origin.control is not None:
            text += f", {_norm(origin.control)} in {origin.control_is or 'the control'}"
    found = [Answer("began in", text)]
    return [*found, Answer("", f"> {origin.code}")] if origin.code else found


def _place(origin: Origin) -> str:
    if origin.direction == "weights":
        return f"began in the weights: {origin.module} is not finite before the step"
    if origin.direction == "input":
        return "began in the input" if origin.module == "input" else f"began in the input {origin.module}"
    if origin.direction == "loss":
        return "began in the loss, or between it and the model: the gradient is bad as it reaches the model's output"
    module = "the model itself" if origin.module == "" else origin.module or "an unknown module"
    where = [one for one in (_operation(origin), _line(origin)) if one]
    return f"began in {module}" + (f" ({', '.join(where)})" if where else "")


def _operation(origin: Origin) -> str:
    if origin.operation is None:
        return "backward" if origin.direction == "backward" else ""
    return f"backward of {origin.operation}" if origin.direction == "backward" else origin.operation


def _line(origin: Origin) -> str:
    if origin.file is None:
        return ""
    name = origin.file.replace("\\", "/").rpartition("/")[2]
    return name if origin.line is None else f"{name}:{origin.line}"


def _which_rows(replay: Replay) -> list[Answer]:
    if not replay.rows and not replay.rows_spread:
        return []
    found = [Answer("rows", _row_names(replay) if replay.suspects else _spread(replay))]
    found += [Answer("", _row_line(row, replay)) for row in replay.rows[:MOST_ROWS]]
    if replay.rows_mix is not None:
        found.append(Answer("", f"rows depend on each other from {replay.rows_mix or 'the model itself'} on"))
    return found


MOST_ROWS = 5


def _spread(replay: Replay) -> str:
    return f"none of {replay.batch_size} stands out: the gradient is spread over the batch"


def _row_names(replay: Replay) -> str:
    rows = replay.suspects
    text = f"{_each_once('row', [row.row for row in rows])} of {replay.batch_size}"
    if replay.ranks > 1:
        text += f" of {_each_once('rank', [row.rank for row in rows])}"
    if replay.micro_batches > len(replay.parts):
        text += f" in {_each_once('micro-batch', [row.micro_batch for row in rows])}"
    shares = [row.share for row in rows if row.share is not None]
    if len(shares) == len(rows):
        carry = "carries" if len(rows) == 1 else "carry"
        text += f" {carry} {share(min(1.0, sum(shares)))} of the squared norm"
    return text


def _row_line(row: RowFinding, replay: Replay) -> str:
    where = f"row {row.row}"
    if replay.micro_batches > len(replay.parts):
        where += f" of micro-batch {row.micro_batch}"
    if replay.ranks > 1:
        where += f" of rank {row.rank}"
    text = f"{where}: norm {_norm(row.norm)}"
    if row.share is not None:
        text += f", share {share(row.share)}"
    if row.norm_without is not None:
        text += f", without it {_norm(row.norm_without)}"
    return text


def _norm(value: float | None) -> str:
    if value is None:
        return "not known"
    return "not finite" if not math.isfinite(value) else number(value)
