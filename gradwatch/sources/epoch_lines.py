"""Reads what Keras and fastai print of each epoch: the state of a progress bar, or a row below a line of names.

    Epoch 1/20
    18/18 [==============================] - 1s 61ms/step - loss: 0.0150 - val_loss: 0.0146

    epoch     train_loss  valid_loss  accuracy  time
    0         0.732300    0.141044    0.046512  00:12

Notebooks show tables of the latter kind as HTML, and the Transformers Trainer with ``Step  Training Loss``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradwatch.sources.lines import printed_lines
from gradwatch.sources.names import NAMES, is_called
from gradwatch.sources.values import NUMBER, as_float

KERAS = "Keras' lines of epochs"
TABLE = "a table of epochs"
_EPOCH = re.compile(r"\bEpoch (?P<epoch>\d{1,9})/\d{1,9}\b")
# Keras 2 draws [===>...], Keras 3 ━━━, and with verbose=2 neither draws a bar.
_BAR = re.compile(r"(?<!\S)(?P<at>\d{1,12})/(?P<of>\d{1,12}|Unknown)\s{1,9}(?:\[[=>.]{1,99}\]|━|-? ?\d+s\b)")
_WITHOUT_BAR = re.compile(r"^\s{0,9}- \d+s\b")  # of Keras before TensorFlow 2, with verbose=2
_LOSS = re.compile(rf" - (?P<kind>loss|val_loss): (?P<value>{NUMBER})(?![\w.])", re.IGNORECASE)
_GAP = re.compile(r"\s{2,}|\t")


def rows(file: Path) -> tuple[list[dict[str, Any]], str, tuple[str, ...]]:
    """The rows of epochs, what printed them, and notes; no rows if the file has neither kind.

    A file with the output of several trainings, as notebooks have it, is read for the one with most rows, of equals for
    the last.

    Raises:
        CannotImport: the file can't be read.
    """
    for what, trainings in ((KERAS, list(_of_keras(file))), (TABLE, list(_of_tables(file)))):
        if trainings:
            found = max(reversed(trainings), key=len)
            return found, what, tuple(_notes(what, len(trainings), len(found)))
    return [], "", ()


def _notes(what: str, trainings: int, taken: int) -> Iterator[str]:
    if what == KERAS:
        yield "Keras prints the mean over the epoch so far, so the last value of each epoch was taken"
    if trainings > 1:
        yield f"{trainings} trainings are printed; the longest was taken, which has {taken} rows"


def _of_keras(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The epochs of each training. The epochs of another one begin anew."""
    training: list[dict[str, Any]] = []
    for row in _keras_epochs(printed_lines(file)):
        if training and row["step"] <= training[-1]["step"]:
            yield training
            training = []
        training.append(row)
    if training:
        yield training


def _keras_epochs(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The last state of each epoch's bar. A further bar before the next epoch is an evaluation's, and not read."""
    row: dict[str, Any] = {}
    bar: tuple[int, str] | None = None
    is_over = True
    for text in texts:
        epoch = _EPOCH.search(text)
        if epoch is not None:
            if "loss" in row:
                yield row
            row, bar, is_over = {"step": int(epoch["epoch"])}, None, False
        shown = _BAR.search(text)
        if is_over or (shown is None and not _WITHOUT_BAR.search(text)):
            continue
        losses = {match["kind"].lower(): match["value"].rstrip(".") for match in _LOSS.finditer(text)}
        now = (int(shown["at"]), shown["of"]) if shown is not None else (0, "")
        is_over = bar is not None and (now[0] < bar[0] or (bar[1].isdecimal() and now[1] != bar[1]))
        is_whole = bar is not None and bar[1] == str(bar[0])
        if is_over or "loss" not in losses or (is_whole and "val_loss" not in losses):
            continue
        row, bar = row | losses, now
        is_over = "val_loss" in losses or shown is None
    if "loss" in row:
        yield row


def _of_tables(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows below each line of names."""
    names: list[str] = []
    found: list[dict[str, Any]] = []
    for text in printed_lines(file):
        cells = _GAP.split(text.strip())
        if _are_names(cells):
            if found:
                yield found
            names, found = cells, []
        elif names and len(cells) > 1 and cells[0].isdecimal() and len(cells) <= len(names):
            values = zip(names[1:], cells[1:], strict=False)
            found.append({"step": int(cells[0])} | {name: cell for name, cell in values if as_float(cell) is not None})
    if found:
        yield found


def _are_names(cells: list[str]) -> bool:
    """Whether a line names the columns of a table of epochs.

    >>> _are_names(["epoch", "train_loss", "valid_loss", "time"]), _are_names(["Step", "Training Loss"])
    (True, True)
    >>> _are_names(["epoch", "accuracy"]), _are_names(["0", "0.7", "0.1"])
    (False, False)
    """
    is_numbered = len(cells) > 1 and cells[0].lower() in ("epoch", "step")
    return is_numbered and any(is_called(cell, NAMES["loss"]) for cell in cells[1:])
