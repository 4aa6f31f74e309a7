"""Which columns of a table hold the norm, the step, the loss, the learning rate and the norms of layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gradwatch.errors import CannotImport
from gradwatch.sources import layers
from gradwatch.sources.history import ONLY
from gradwatch.sources.names import MOST_LISTED, losses_of_parts, of_the_whole, pick, rivals

MOST_NAMED = 12  # columns that a note lists
WORDS = {
    "norm": "the gradient norm",
    "step": "the step",
    "loss": "the loss",
    "learning_rate": "the learning rate",
    "reward": "the reward",
    "validation_loss": "the loss of validations",
}
"""How a note names the column of each kind."""
SELDOM = ("step", "reward", "validation_loss")  # kinds that most logs lack, of which a note says nothing
_OF_GRADIENTS = re.compile("grad.*norm", re.IGNORECASE)
ROWS_COUNTED = "there is no column of steps, so the rows are counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The name of each column that is read; None where there is none.

    Attributes:
        norm: of the total norm; None if it is computed from those of the layers, or not known.
        step: of the steps; None if the rows are counted.
        loss: of the loss.
        learning_rate: of the learning rate.
        reward: of the reward by which a policy is trained.
        validation_loss: of the loss on data that the training did not learn from.
        series: of the layers.
        total_notes: sentences about a computed total norm.
        rivals: where there is no loss of the whole, of those of two rivals, by the rivals' names.
    """

    norm: str | None
    step: str | None
    loss: str | None
    learning_rate: str | None
    reward: str | None
    validation_loss: str | None
    series: layers.LayerSeries
    total_notes: tuple[str, ...]
    rivals: Mapping[str, str] = field(default_factory=dict)

    def by_optimizer(self) -> Iterator[tuple[str, Columns]]:
        """The columns of each optimizer by its name: one for each rival, where their losses alone are there."""
        if self.judges_rivals:
            for name, loss in self.rivals.items():
                yield name, replace(self, loss=loss, rivals={})
        else:
            yield ONLY, self

    @property
    def judges_rivals(self) -> bool:
        """Whether the losses of rivals are all that there is: neither norms nor a reward."""
        return bool(self.rivals) and not self.has_norms and self.reward is None

    @property
    def by_kind(self) -> dict[str, str | None]:
        """The single columns by the kind of what they hold."""
        return {
            "norm": self.norm,
            "step": self.step,
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "reward": self.reward,
            "validation_loss": self.validation_loss,
        }

    @property
    def has_norms(self) -> bool:
        """Whether there is a total norm, or layers to compute it from."""
        return self.norm is not None or bool(self.series.columns)

    @property
    def of_points(self) -> tuple[str, ...]:
        """The columns of which a row has to hold one, or is left out: of norms, else the loss, else the reward."""
        if self.has_norms:
            return self.series.columns if self.norm is None else (self.norm,)
        if self.judges_rivals:
            return tuple(self.rivals.values())
        return tuple(name for name in (self.loss or self.reward,) if name is not None)

    @property
    def taken(self) -> str:
        """What was taken, in words."""
        if self.norm is None and self.series.columns:
            return "the norms of layers"
        if self.judges_rivals:
            return " and ".join(map(repr, self.rivals.values()))
        return repr(self.norm or self.loss or self.reward)

    @property
    def layer_notes(self) -> tuple[str, ...]:
        """Sentences about the norms of layers and the total norm that was computed from them."""
        return (*((self.series.note,) if self.series.layers else ()), *self.total_notes)


def choose(
    available: Sequence[str],
    where: str,
    norm: str | None = None,
    step: str | None = None,
    loss: str | None = None,
    layers_prefix: str | None = None,
) -> Columns:
    """The columns by their usual names, or by those that the user gave.

    Args:
        available: the names of all columns.
        where: the file, for messages.
        norm: name of the total norm, as the user gave it.
        step: name of the steps, as the user gave it.
        loss: name of the loss, as the user gave it.
        layers_prefix: how the names of the layers' norms begin, as the user gave it.

    Raises:
        CannotImport: there is no column of a given name or beginning, or none of a norm, a loss or a reward.

    >>> columns = choose(["iter", "train/grad_norm", "lr"], "a.csv")
    >>> columns.norm, columns.step, columns.loss
    ('train/grad_norm', 'iter', None)
    """
    series = layers.find([name for name in available if name != norm], layers_prefix)
    others = [name for name in available if name not in series.columns]
    total, total_notes = layers.pick_total(others, norm, series, where)
    apart = rivals(available) if loss is None else {}
    if apart and (whole := of_the_whole(available, apart.values())):
        apart, loss = {}, whole
    chosen = Columns(
        norm=total,
        step=pick("step", available, step, where),
        loss=None if apart else pick("loss", available, loss, where),
        learning_rate=pick("learning_rate", available, None, where),
        reward=pick("reward", available, None, where),
        validation_loss=pick("validation_loss", available, None, where),
        series=series,
        total_notes=total_notes,
        rivals=apart,
    )
    if not chosen.of_points:
        listed = ", ".join(map(repr, available[:MOST_LISTED])) or "nothing"
        raise CannotImport(
            f"{where} has no series with the name of a gradient norm, a loss or a reward: {listed}."
            f" Name one with --norm or --loss.{''.join(f' {note}.' for note in total_notes)}"
        )
    return chosen


def told(available: Sequence[str], columns: Columns, *, has_steps: bool = False) -> Iterator[str]:
    """What was taken, what was not found and what was left out, a sentence each.

    Args:
        available: the names of all columns.
        columns: that were chosen.
        has_steps: the format itself tells the steps, without a column.

    >>> names = ["step", "grad_norm", "loss", "lr", "epoch"]
    >>> list(told(names, choose(names, "a.csv")))[1]
    "left out, because a run has no place for them: 'epoch'"
    """
    names = dict(columns.by_kind)
    if has_steps:
        names.pop("step", None)
    taken = [f"{name!r} as {WORDS[kind]}" for kind, name in names.items() if name is not None]
    options = "--norm and --loss" if has_steps else "--norm, --step and --loss"
    if taken:
        yield f"taken: {', '.join(taken)}; {options} choose others"
    yield from _of_losses(available, columns)
    if columns.step is None and not has_steps:
        yield ROWS_COUNTED
    has_loss = columns.loss is not None or columns.judges_rivals
    known = {kind for kind, name in names.items() if name is not None or (kind == "loss" and has_loss)}
    missing = [WORDS[kind] for kind in names if kind not in known and kind not in SELDOM]
    if missing:
        yield f"not found: {', '.join(missing)}"
    of_rivals = columns.rivals.values() if columns.judges_rivals else ()
    yield from _left_out(available, {*names.values(), *columns.series.columns, *of_rivals})
    if not columns.has_norms and (doubtful := [repr(name) for name in available if _OF_GRADIENTS.search(name)]):
        yield f"may be the gradient norm: {', '.join(doubtful[:MOST_NAMED])}; name it with --norm"
    yield from columns.layer_notes


def _of_losses(available: Sequence[str], columns: Columns) -> Iterator[str]:
    """A sentence where the log has losses of parts, and none of the whole."""
    losses = " and ".join(map(repr, columns.rivals.values()))
    if columns.judges_rivals:
        yield f"taken: {losses}, each as the loss of an optimizer of its own; --loss takes one alone"
    elif columns.rivals:
        instead = "the norm" if columns.has_norms else "the reward"
        yield f"{losses} are losses of parts, so {instead} was taken without a loss; --loss takes one of them"
    elif others := losses_of_parts(available, columns.loss):
        listed = ", ".join(map(repr, others[:MOST_NAMED]))
        yield f"{columns.loss!r} may be the loss of a part alone; --loss takes another: {listed}"


def _left_out(available: Sequence[str], taken: Collection[str | None]) -> Iterator[str]:
    others = [repr(name) for name in available if name not in taken]
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        yield f"left out, because a run has no place for them: {', '.join(others[:MOST_NAMED])}{more}"
