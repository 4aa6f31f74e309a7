"""The loss of a YOLO training, of which its tools log the parts."""

import json

import pytest

from gradwatch.sources import read

NAMES = ["epoch", "train/box_loss", "train/cls_loss", "train/dfl_loss", "metrics/mAP50(B)"]
NAMES += ["val/box_loss", "val/cls_loss", "val/dfl_loss", "lr/pg0"]
ROWS = [[n, 1.8 / n, 3.0 / n, 1.9 / n, 0.1 * n, 2.0, 0.25 * n, 0.5, 0.01] for n in range(1, 6)]
EXPECTED = [6.7 / n for n in range(1, 6)]
VALIDATION = [2.5 + 0.25 * n for n in range(1, 6)]


def write(tmp_path, form):
    if form == "padded":  # as Ultralytics wrote it until 2024, and YOLOv5
        lines = [",".join(f"{cell!s:>23}" for cell in row) for row in (NAMES, *ROWS)]
    elif form == "csv":
        lines = [",".join(map(str, row)) for row in (NAMES, *ROWS)]
    elif form == "jsonl":
        lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS]
    else:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path / "logs")) as writer:
            for row in ROWS:
                for name, value in zip(NAMES[1:], row[1:], strict=True):
                    writer.add_scalar(name, value, row[0])
        return tmp_path / "logs"
    file = tmp_path / ("results.jsonl" if form == "jsonl" else "results.csv")
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("form", ["padded", "csv", "jsonl", "events"])
def test_the_loss_is_the_sum_of_its_parts_and_that_is_said(tmp_path, form):
    history = read([write(tmp_path, form)])
    assert [point.loss for point in history.points] == pytest.approx(EXPECTED)
    assert [loss for _, loss in history.validation] == pytest.approx(VALIDATION)
    parts = "'train/box_loss', 'train/cls_loss', 'train/dfl_loss'"
    assert f"'train/loss' was computed: the sum of {parts}" in history.notes


def test_a_sum_of_which_a_part_is_missing_is_not_known(tmp_path):
    (tmp_path / "a.csv").write_text("epoch,train/box_loss,train/cls_loss\n1,1.0,2.0\n2,,2.0\n3,nan,2.0\n")
    losses = [point.loss for point in read([tmp_path / "a.csv"]).points]
    assert losses[0] == 3.0
    assert len(losses) == 2
    assert losses[1] != losses[1]


def test_a_part_that_is_named_is_taken_alone(tmp_path):
    history = read([write(tmp_path, "csv")], loss="train/cls_loss")
    assert [point.loss for point in history.points] == pytest.approx([3.0 / n for n in range(1, 6)])
