"""Printed text, by the patterns of well-known tools and by a pattern of the user's."""

import math
import re
import time

import pytest

from gradwatch.errors import BadArgument, CannotImport
from gradwatch.sources import read, text_log
from gradwatch.sources.text_log import rows

from .support import EXPECTED, ROWS, values, write_text

LOGS = {
    "llm.c": "step   {step}/19560 | loss {loss:.6f} (+1.25z)| norm {norm:.4f} (-0.3z)| lr {lr:.2e} | 230.1 ms",
    "build-nanogpt": "step {step:5d} | loss: {loss:.6f} | lr {lr:.4e} | norm: {norm:.4f} | dt: 338.9ms | tok/sec: 1547",
    "Megatron-LM": " [2026-01-01 10:00:00] iteration {step:8d}/  500000 | consumed samples: 1024 | elapsed time per"
    " iteration (ms): 901.2 | learning rate: {lr:.6E} | global batch size: 64 | lm loss: {loss:.6E} | loss scale: 1.0 |"
    " grad norm: {norm:.3f} | number of skipped iterations: 0 | number of nan iterations: 0 |",
    "fairseq's epochs": "| epoch 027 | loss {loss:.3f} | nll_loss 4.984 | ppl 31.65 | wps 1643 | num_updates {step}"
    " | lr {lr:.6g} | gnorm {norm:.3f} | clip 0% | oom 0 | loss_scale 0.500",
    "fairseq's epochs, as JSON": '2026-01-01 10:00:00 | INFO | train | {{"epoch": 7, "train_loss": "{loss:.3f}",'
    ' "train_ppl": "9", "train_num_updates": "{step}", "train_lr": "{lr:.6g}", "train_gnorm": "{norm:.3f}"}}',
    "OpenMMLab": "2026-01-01 10:00:00,000 - mmdet - INFO - Epoch [1][{step}/900]\tlr: {lr:.3e}, eta: 4 days,"
    " loss/object/task0: 0.3, d0.loss: 9.0, loss: {loss:.4f}, grad_norm: {norm:.4f}",
    "OpenMMLab, mmengine": "01/01 10:00:00 - mmengine - INFO - Iter(train) [  {step}/9000]  lr: {lr:.4e}  eta: 2:45:16"
    "  grad_norm: {norm:.4f}  loss: {loss:.4f}  loss_cls: 0.8",
    "verl": "step:{step} - global_seqlen/min:23 - actor/pg_loss:0.03 - actor/grad_norm:np.float64({norm:.4f})"
    " - perf/mfu:0.3 - actor/lr:np.float64({lr:.6g}) - critic/grad_norm:99",
    "torchtitan": "\x1b[31mstep: {step:2d}  \x1b[32mloss:  {loss:.5f}  \x1b[38;2;180;60;0mgrad_norm: {norm:8.4f}"
    "  \x1b[36mmemory:  0.8GiB",
    "fairseq": '2026-01-01 10:00:00 | INFO | train_inner | {{"epoch": 1, "update": 0.1, "loss": "{loss:.3f}",'
    ' "ppl": "9", "num_updates": "{step}", "lr": "{lr:.6g}", "gnorm": "{norm:.3f}", "clip": "0"}}',
    "fairseq, simple": "2026-01-01 10:00:00 | INFO | train_inner | epoch 001:    100 / 1000 loss={loss:.3f},"
    " nll_loss=9.5, ppl=725.8, wps=9000, ups=2.1, wpb=4000, bsz=120, num_updates={step},"
    " lr={lr:.6g}, gnorm={norm:.3f}, clip=0, train_wall=40, wall=60",
}


@pytest.mark.parametrize("tool", LOGS)
def test_the_lines_of_well_known_tools_are_read(tmp_path, tool):
    lines = [LOGS[tool].format(step=row["step"], loss=row["loss"], norm=row["grad_norm"], lr=row["lr"]) for row in ROWS]
    file = write_text(tmp_path, "train.log", "starting\n" + "\n\nsomething else: step 3\n".join(lines))
    history = read([file])
    assert history.source == f"train.log by the pattern of {tool.split(',')[0]}"
    for found, wanted in zip(values(history), EXPECTED, strict=True):
        assert found[:2] == wanted[:2]
        assert found[2] == (None if tool == "verl" else pytest.approx(wanted[2], abs=1e-3))
        assert found[3] == (None if tool == "torchtitan" else pytest.approx(wanted[3]))


def test_steps_that_a_tool_counts_anew_in_each_epoch_are_counted_on(tmp_path):
    line = "- mmengine - INFO - Epoch(train)  [{}][ {}/300]  lr: 1.0000e-03  loss: 1.5  grad_norm: {}.0\n"
    text = "".join(line.format(epoch, at, epoch * at) for epoch in (1, 2) for at in (100, 200, 300))
    text += "- mmengine - INFO - Epoch(val)  [2][100/100]  lr: 1e-3  loss: 9.0  grad_norm: 9.0\n"
    history = read([write_text(tmp_path, "a.log", text)])
    assert [point.step for point in history.points] == [100, 200, 300, 400, 500, 600]
    assert [point.norm for point in history.points] == [100.0, 200.0, 300.0, 200.0, 400.0, 600.0]


def test_a_pattern_of_ones_own(tmp_path):
    file = write_text(tmp_path, "x.anything", "it 5: |g|=2.5,\nit 6: |g|=nan\nit 7: |g|=inf;\n")
    history = read([write_text(tmp_path, "x.txt", file.read_text())], pattern=r"it (?P<step>\d+): \|g\|=(?P<norm>\S+)")
    assert [point.step for point in history.points] == [5, 6, 7]
    assert [history.points[0].norm, history.points[2].norm] == [2.5, math.inf]
    assert math.isnan(history.points[1].norm)


@pytest.mark.parametrize("pattern", ["(", r"(?P<step>\d+)", r"(?P<norm>\S+)(?P<colour>x)", ""])
def test_a_pattern_that_makes_no_sense_is_refused(pattern):
    with pytest.raises(BadArgument, match="--pattern"):
        text_log.compiled(pattern)


def test_a_pattern_that_matches_nothing_is_said(tmp_path):
    with pytest.raises(CannotImport, match="no line that matches --pattern"):
        read([write_text(tmp_path, "x.log", "a\n")], pattern=r"(?P<norm>\d+)")


@pytest.mark.parametrize("number", ["0", "-1.5e-30", "+3.", "nan", "NaN", "inf", "-inf", "1e400"])
def test_numbers_are_taken_as_they_are_printed(tmp_path, number):
    file = write_text(tmp_path, "a.log", f"step: 7 loss: {number} grad_norm: {number}\n")
    (found,), told = rows(file)
    assert told == "the pattern of torchtitan"
    expected = float(number)
    assert float(found["grad_norm"]) == expected or (math.isnan(expected) and math.isnan(float(found["grad_norm"])))
    assert found["step"] == "7"


def test_of_several_tools_the_one_with_most_lines_is_taken(tmp_path):
    lines = [LOGS["llm.c"].format(step=1, loss=1.0, norm=2.0, lr=0.1)]
    lines += [LOGS["torchtitan"].format(step=step, loss=1.0, norm=3.0) for step in (1, 2)]
    found, told = rows(write_text(tmp_path, "a.log", "\n".join(lines)))
    assert told == "the pattern of torchtitan"
    assert [float(row["grad_norm"]) for row in found] == [3.0, 3.0]


def test_progress_bars_that_return_to_the_start_of_their_line_are_lines(tmp_path):
    text = "\r".join(f"n {step} norm {step}.5" for step in range(3))
    found, _ = rows(write_text(tmp_path, "a.log", text), r"n (?P<step>\d+) norm (?P<norm>\S+)")
    assert [row["grad_norm"] for row in found] == ["0.5", "1.5", "2.5"]


def test_a_line_without_end_is_cut_and_bytes_that_are_no_text_are_passed_over(tmp_path):
    (tmp_path / "a.log").write_bytes(b"\xff\xfe norm 2.0 " + b"x" * 100_000 + b" norm 3.0\nnorm 4.0\n")
    found, _ = rows(tmp_path / "a.log", r"norm (?P<norm>\S+)(?!.*norm)")
    assert [row["grad_norm"] for row in found] == ["2.0", "4.0"]


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(CannotImport, match="can't be read"):
        rows(tmp_path / "missing.log")


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        (
            "DeepSpeed",
            "[2026-01-01 10:00:00,000] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=0, lr=[0.001], mom=[]",
        ),
        ("nanoGPT", "iter 250: loss 3.2211, time 120.31ms, mfu 30.02%"),
    ],
)
def test_lines_without_a_norm_are_known_and_that_is_said(tmp_path, tool, line):
    with pytest.raises(CannotImport, match=f"{tool}'s own lines contain no gradient norm"):
        rows(write_text(tmp_path, "a.log", f"{line}\n"))


@pytest.mark.parametrize("quote", ["", "'"])
def test_the_dicts_that_a_trainer_prints_are_read_between_progress_bars(tmp_path, quote):
    text = "".join(
        f" {10 * n}%|#   | {n}/5 [00:01<00:09, 1.0s/it]\r{{'loss': {quote}{row['loss']}{quote}, 'grad_norm':"
        f" {quote}{row['grad_norm']}{quote}, 'learning_rate': {quote}{row['lr']}{quote}, 'epoch': {quote}0.1{quote}}}\n"
        "{'eval_loss': 1.0, 'epoch': 0.1}\n"
        for n, row in enumerate(ROWS)
    )
    history = read([write_text(tmp_path, "nohup.out", text)])
    assert [point[1:] for point in values(history)] == [wanted[1:] for wanted in EXPECTED]
    assert [point.step for point in history.points] == [0, 1, 2, 3, 4]
    assert "there is no column of steps, so the rows are counted" in history.notes


HOSTILE = (
    "iteration 1/ 1 |" + "learning rate: 1 |lm loss: 1 |" * 330,
    "step 1/1 | loss " + "1." * 5000,
    '"loss": "1""num_updates": "1""lr": "1"' * 250,
    "'loss': 1, 'grad_norm': 1," * 350,
    "Epoch [1][1/9] lr: 1 loss: 1 grad_norm: " * 250,
    "step:1 - actor/grad_norm:np.float64(" * 280,
    "| loss 1| num_updates 1| lr 1" * 340,
)


@pytest.mark.parametrize(
    "line", HOSTILE, ids=["Megatron-LM", "llm.c", "fairseq", "Transformers", "OpenMMLab", "verl", "epochs"]
)
def test_a_hostile_line_takes_quadratic_time_at_most(line):
    """Four times the length takes about 16 times as long; with cubic patterns it took 64 and 256 times."""
    pattern = max(
        (re.compile(text, re.IGNORECASE) for text in text_log.PATTERNS.values()), key=lambda p: taken(p, line)
    )
    assert taken(pattern, line) < 40 * taken(pattern, line[: len(line) // 4]) + 0.01


def taken(pattern, line):
    """The least processor time of three searches."""
    times = []
    for _ in range(3):
        began = time.process_time()
        pattern.search(line)
        times.append(time.process_time() - began)
    return min(times)
