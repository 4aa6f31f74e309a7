"""What Keras and fastai print of each epoch, in the forms of public logs."""

import json

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import read
from gradwatch.sources.epoch_lines import rows

LOSSES = [(0.9, 1.0), (0.5, 0.7), (0.4, 0.6), (0.35, 0.62)]  # of the training and the validation


def file_of(tmp_path, text, name="a.log"):
    (tmp_path / name).write_text(text, newline="")
    return tmp_path / name


def keras_2(losses=LOSSES, batches=18, end="\r"):
    text = ""
    for epoch, (loss, validation) in enumerate(losses, 1):
        text += f"Epoch {epoch}/{len(losses)}\n"
        for batch in range(1, batches + 1):
            bar = "=" * batch + ">" + "." * (batches - batch)
            shown = loss + (batches - batch) / 100
            text += f"{end}{batch:2}/{batches} [{bar}] - ETA: 0s - loss: {shown:.4f} - accuracy: 0.9355"
        text += f"{end}{batches}/{batches} [{'=' * 30}] - 1s 61ms/step - loss: {loss:.4f} - accuracy: 0.9355"
        text += f" - val_loss: {validation:.4f} - val_accuracy: 0.8982\n"
        text += f"\nEpoch {epoch}: val_loss improved from 9.0 to {validation}, saving model to best.h5\n"
    return text


def keras_3(losses=LOSSES, batches=15):
    text = ""
    for epoch, (loss, validation) in enumerate(losses, 1):
        text += f"Epoch {epoch}/{len(losses)}\n"
        for batch in range(1, batches + 1):
            bar = "\x1b[32m" + "━" * batch + "\x1b[0m\x1b[37m" + "━" * (batches - batch) + "\x1b[0m"
            place = f"\r\x1b[1m{batch:2}/{batches}\x1b[0m {bar} \x1b[1m0s\x1b[0m 16ms/step"
            text += f"{place} - accuracy: 0.9127 - loss: {loss + (batches - batch) / 100:.4f}"
        text += f"\r\x1b[1m{batches}/{batches}\x1b[0m \x1b[32m{'━' * 20}\x1b[0m \x1b[1m6s\x1b[0m 12ms/step - "
        text += f"accuracy: 0.9127 - loss: {loss:.4f} - val_accuracy: 0.9558 - val_loss: {validation:.4f}\n"
    return text


def without_bar(form):
    lines = (
        f"Epoch {epoch}/4\n{form} - loss: {loss} - acc: 0.9 - val_loss: {validation} - val_acc: 0.8\n"
        for epoch, (loss, validation) in enumerate(LOSSES, 1)
    )
    return "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(keras_2(), id="Keras 2"),
        pytest.param(keras_2(end="\n"), id="Keras 2, a line for each state"),
        pytest.param(keras_2(end="\b" * 99 + "\r"), id="Keras 2, with backspaces"),
        pytest.param(keras_3(), id="Keras 3"),
        pytest.param(without_bar("18/18 - 2s"), id="Keras 2, verbose=2"),
        pytest.param(without_bar("4/4 - 0s - 10ms/step"), id="Keras 3, verbose=2"),
        pytest.param(without_bar(" - 2s"), id="Keras of 2018, verbose=2"),
    ],
)
def test_each_epoch_of_keras_has_the_last_loss_that_its_bar_shows(tmp_path, text):
    history = read([file_of(tmp_path, text)])
    assert [(point.step, point.loss) for point in history.points] == [
        (n, loss) for n, (loss, _) in enumerate(LOSSES, 1)
    ]
    assert history.validation == [(n, loss) for n, (_, loss) in enumerate(LOSSES, 1)]
    assert "taken: the step, the loss, the loss of validations" in history.notes


@pytest.mark.parametrize("batches", [18, 313])
def test_an_evaluation_after_the_last_epoch_is_not_taken(tmp_path, batches):
    bars = [f"{at}/{batches} [====>....] - ETA: 0s - loss: 7.0\r" for at in range(1, batches + 1)]
    text = keras_2() + "".join(bars) + f"{batches}/{batches} [====] - 1s 3ms/step - loss: 7.0 - acc: 0.9\n"
    found, *_ = rows(file_of(tmp_path, text))
    assert [row["loss"] for row in found] == [f"{loss:.4f}" for loss, _ in LOSSES]


def test_an_epoch_that_was_cut_off_has_the_loss_so_far(tmp_path):
    text = keras_2() + "Epoch 5/9\n 1/18 [>....] - ETA: 9s - loss: 0.3000\r 2/18 [=>...] - ETA: 8s - loss: nan\r"
    found, *_ = rows(file_of(tmp_path, text))
    assert found[-1] == {"step": 5, "loss": "nan"}


def test_of_several_trainings_the_longest_is_taken_and_that_is_said(tmp_path):
    text = keras_2([(5.0, 6.0)]) + keras_2() + keras_2([(3.0, 3.0)] * 2)
    history = read([file_of(tmp_path, text)])
    assert [point.loss for point in history.points] == [loss for loss, _ in LOSSES]
    assert "3 trainings are printed; the longest was taken, which has 4 rows" in history.notes


FASTAI = "epoch     train_loss  valid_loss  error_rate  time    \n" + "".join(
    f"{n}         {loss:f}    {validation:f}    0.046512  00:12     \n" for n, (loss, validation) in enumerate(LOSSES)
)
FASTAI_1 = "epoch     train_loss  valid_loss  accuracy\n" + "".join(
    f"{n}         {loss:f}    {validation:f}    0.524499\n\n" for n, (loss, validation) in enumerate(LOSSES)
)


@pytest.mark.parametrize("text", [FASTAI, FASTAI_1, "0.00% [0/1 00:00<00:00]\n" + FASTAI + "Total time: 01:55\n"])
def test_tables_of_fastai_are_read(tmp_path, text):
    history = read([file_of(tmp_path, text, "a.txt")])
    assert [(point.step, point.loss) for point in history.points] == [(n, loss) for n, (loss, _) in enumerate(LOSSES)]
    assert history.validation == [(n, loss) for n, (_, loss) in enumerate(LOSSES)]


def test_fastais_csv_logger_is_read_beside_its_durations(tmp_path):
    lines = [f"{n},{loss},{validation},0.9,04:39" for n, (loss, validation) in enumerate(LOSSES)]
    history = read([file_of(tmp_path, "\n".join(["epoch,train_loss,valid_loss,accuracy,time", *lines]), "history.csv")])
    assert [point.loss for point in history.points] == [loss for loss, _ in LOSSES]
    assert [loss for _, loss in history.validation] == [loss for _, loss in LOSSES]


@pytest.mark.parametrize("name", ["training.log", "a.csv"])
def test_keras_csv_logger_is_read_whatever_its_file_is_called(tmp_path, name):
    lines = [f"{n},0.94,{loss},0.96,{validation}" for n, (loss, validation) in enumerate(LOSSES)]
    text = "\n".join(["epoch,accuracy,loss,val_accuracy,val_loss", *lines])
    history = read([file_of(tmp_path, text, name)])
    assert [point.loss for point in history.points] == [loss for loss, _ in LOSSES]
    assert [loss for _, loss in history.validation] == [loss for _, loss in LOSSES]


def notebook(tmp_path, *outputs):
    cells = [{"cell_type": "markdown", "source": "text"}, {"cell_type": "code", "source": "", "outputs": list(outputs)}]
    return file_of(tmp_path, json.dumps({"cells": cells, "nbformat": 4}), "a.ipynb")


def html(*table):
    each = ("".join(f"<td>{cell}</td>" for cell in row) for row in table)
    return "<div><table border=1 class=x>\n<thead><tr>" + "</tr>\n<tr>".join(each) + "</tr></table></div>"


def test_what_a_notebook_printed_is_read(tmp_path):
    lines = [f"{{'loss': {loss}, 'grad_norm': {n}.5, 'epoch': {n}}}\n" for n, (loss, _) in enumerate(LOSSES)]
    history = read([notebook(tmp_path, {"output_type": "stream", "name": "stdout", "text": lines})])
    assert [(point.loss, point.norm) for point in history.points] == [
        (loss, n + 0.5) for n, (loss, _) in enumerate(LOSSES)
    ]


def test_a_bar_in_a_notebook_is_read(tmp_path):
    history = read([notebook(tmp_path, {"output_type": "stream", "text": keras_3()})])
    assert [point.loss for point in history.points] == [loss for loss, _ in LOSSES]


@pytest.mark.parametrize(
    "names", [("epoch", "train_loss", "valid_loss", "time"), ("Step", "Training Loss", "Validation Loss", "F1")]
)
def test_a_table_that_a_notebook_shows_is_read(tmp_path, names):
    table = [names, *((10 * n, loss, validation, "00:12") for n, (loss, validation) in enumerate(LOSSES, 1))]
    data = {"text/html": [html(*table)], "text/plain": ["<IPython.core.display.HTML object>"]}
    history = read([notebook(tmp_path, {"output_type": "display_data", "data": data})])
    assert [(point.step, point.loss) for point in history.points] == [
        (10 * n, loss) for n, (loss, _) in enumerate(LOSSES, 1)
    ]
    assert [loss for _, loss in history.validation] == [loss for _, loss in LOSSES]


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": 3}', '{"cells": [1, {"outputs": [2, {"data": 3}]}]}', ""])
def test_what_is_no_notebook_or_holds_no_log_is_refused(tmp_path, text):
    with pytest.raises(CannotImport):
        read([file_of(tmp_path, text, "a.ipynb")])
