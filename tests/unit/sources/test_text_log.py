"""Printed text, by the patterns of well-known tools and by a pattern of the user's."""

import math
import re
import time

import pytest

from gradwatch.errors import BadArgument, CannotImport
from gradwatch.sources import epoch_lines, read, text_log
from gradwatch.sources.text_log import rows

from .support import EXPECTED, ROWS, values, write_text

LOGS = {
    "llm.c": "step   {step}/19560 | loss {loss:.6f} (+1.25z)| norm {norm:.4f} (-0.3z)| lr {lr:.2e} | 230.1 ms",
    "llm.c's main.log": "s:{step} trl:{loss:.4f} lr:{lr:.6f} norm:{norm:.2f}",
    "build-nanogpt": "step {step:5d} | loss: {loss:.6f} | lr {lr:.4e} | norm: {norm:.4f} | dt: 338.9ms | tok/sec: 1547",
    "build-nanogpt, a copy": "step {step} || loss: {loss:.4f} || norm: {norm:.4f} || elapsed_time: dt=460.1092ms",
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
    "nanotron": "01/01/2026 10:00:00 [INFO|DP=0|PP=0|TP=0]: iteration: {step} / 9000 | consumed_tokens: 85.8G |"
    " tokens_per_sec: 22.8K | lm_loss: {loss:.4g} | lr: {lr:.3g} | model_tflops_per_gpu: 38.3 | grad_norm: {norm:.6g}",
    "the scripts like BEiT's": "Epoch: [0]  [{step:5d}/17227]  eta: 8:06:56  lr: {lr:.6f}  min_lr: 0.5"
    "  loss: {loss:.4f} (9.9914)  loss_scale: 8192.0000 (9600.5792)  weight_decay: 0.0500 (0.0500)"
    "  grad_norm: {norm:.4f} (inf)  time: 1.4",
    "the scripts like BEiT's, Swin": "[2026-01-01 10:00:00 swin] (main.py 213): INFO Train: [0/300][{step}/1251]"
    "\teta 0:20:10 lr {lr:.6f}\t wd 0.0500\ttime 0.4 (0.5)\tloss {loss:.4f} (6.9)"
    "\tgrad_norm {norm:.4f} (2.2)\tloss_scale 65536.0",
    "audiocraft": "[01-01 10:00:00][flashy.solver][INFO] - Train Summary | Epoch {step} | lr={lr:.2E} |"
    " grad_norm={norm:.3E} | grad_scale=263192.576 | ce={loss:.3f} | ppl=1.101 | duration=1321.922",
    "the first DPO script": "train stats after 160 examples: {{'rewards_train/chosen': '0.1', 'loss/train':"
    " '{loss:.5g}', 'grad_norm': '{norm:.5g}', 'counters/examples': 160, 'counters/updates': {step}}}",
    "OLMo": "2026-01-01 10:00:00.185\thost:0\tolmo.train:979\tINFO\t[step={step}/10000,epoch=0]\n"
    "    optim/total_grad_norm={norm:.3f}\n    optim/learning_rate_group0={lr:.6g}\n"
    "    train/CrossEntropyLoss={loss:.3f}\n    train/Perplexity=84,884",
    "fairseq of 2018": "| epoch 001   {step} / 8223 loss={loss:.3f} (1.50), wps=962, wpb=908, bsz=32, lr={lr:.6g},"
    " clip=100%, gnorm={norm:.4f}",
    "fairseq's epochs of 2018": "| epoch {step:03d} | train loss {loss:.3f} | train ppl 2.72 | s/checkpoint 7747"
    " | words/s 961 | bsz 32 | lr {lr:.6f} | clip 100% | gnorm {norm:.4f}",
    "ESPnet": "[host] 2026-01-01 10:00:00,000 (trainer:737) INFO: 1epoch:train:1-{step}batch: iter_time=6.825e-04,"
    " loss_ctc=285.877, acc=0.076, loss={loss:.3f}, backward_time=0.253, grad_norm={norm:.3f}, clip=100.000,"
    " loss_scale=6.554e+04, optim_step_time=0.046, optim0_lr0={lr:.3e}, train_time=0.565",
    "ESPnet, before": "(trainer:706) INFO: 1epoch:train:1-{step}batch: loss_ctc=1.5, loss={loss:.3f},"
    " lr_0={lr:.3e}, train_time=0.497, grad_norm={norm:.3f}, grad_scale=2.048e+03",
    "nanochat": "step {step:05d}/20000 (1.23%) | loss: {loss:.6f} | grad norm: {norm:.4f} | lrm: 1.00 | dt: 9.1ms",
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
        has_rate = tool not in ("torchtitan", "the first DPO script", "nanochat", "build-nanogpt, a copy")
        assert found[3] == (pytest.approx(wanted[3]) if has_rate else None)


def test_a_nan_that_is_padded_to_the_width_of_a_number_is_read(tmp_path):
    line = "step    {}/19560 | loss     nan (+nanz)| norm    nan (+nanz)| lr 8.57e-07 | 3914.05 ms | 34.5% bf16 MFU\n"
    found, told, _ = rows(write_text(tmp_path, "a.log", line.format(1) + line.format(2)))
    assert told == "the pattern of llm.c"
    expected = [("1", "nan", "nan", "8.57e-07"), ("2", "nan", "nan", "8.57e-07")]
    assert [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in found] == expected


def test_rows_whose_tool_abbreviates_their_steps_are_counted(tmp_path):
    line = "INFO 2026-01-01 ot_train.py:351 step:{} smpl:6K ep:9 epch:0.03 loss:{} grdn:{} lr:2.5e-06 updt_s:4.4\n"
    text = line.format("31K", "nan", "nan") + line.format("31K", 0.5, 1.25)
    history = read([write_text(tmp_path, "a.log", text)])
    assert history.source == "a.log by the pattern of LeRobot"
    assert [point.step for point in history.points] == [0, 1]
    assert values(history)[1] == (1, 1.25, 0.5, 2.5e-6)


def test_abbreviated_numbers_and_those_with_commas_are_read_whole(tmp_path):
    line = "[INFO|DP=0]: iteration: {} / 9 | lm_loss: 1.5K | lr: 0.1 | grad_norm: {}\n"
    nanotron = read([write_text(tmp_path, "a.log", line.format(1, "2.5K") + line.format(2, "3.25M"))])
    assert [point.norm for point in nanotron.points] == [2500.0, 3.25e6]
    assert nanotron.points[0].loss == 1500.0
    olmo = "[step={}/9,epoch=0]\n    optim/total_grad_norm={}\n    train/CrossEntropyLoss=1.5\n"
    found, *_ = rows(write_text(tmp_path, "b.log", olmo.format(1, "1,234") + olmo.format(2, "1,234,567")))
    assert [row["grad_norm"] for row in found] == ["1234", "1234567"]


def test_numbers_below_a_header_belong_to_it_and_to_no_other(tmp_path):
    text = "[step=1/9,epoch=0]\n    train/CrossEntropyLoss=1.5\n    optim/total_grad_norm=2.0\n"
    text += "[step=2/9,epoch=0]\nsaving\n    optim/total_grad_norm=9.0\n    train/CrossEntropyLoss=9.0\n"
    text += "[step=3/9,epoch=0]\n    optim/total_grad_norm=3.0\n    train/CrossEntropyLoss=nan\n"
    found, told, _ = rows(write_text(tmp_path, "a.log", text))
    assert told == "the pattern of OLMo"
    assert [(row["step"], row["grad_norm"], row["loss"]) for row in found] == [("1", "2.0", "1.5"), ("3", "3.0", "nan")]


def test_a_line_of_ones_own_between_headers_is_matched_once(tmp_path):
    text = "[step=1/9] norm=1.0\n[step=2/9] norm=2.0\nstep 3: norm=3.0\n    norm=4.0\n"
    found, *_ = rows(write_text(tmp_path, "a.log", text), r"norm=(?P<norm>\S+)")
    assert [row["grad_norm"] for row in found] == ["1.0", "2.0", "3.0", "4.0"]


def test_epochs_counted_from_0_go_on(tmp_path):
    line = "Epoch: [{}]  [ {}/20]  eta: 0:01  lr: 0.1  loss: 1.0 (1.0)  grad_norm: 2.0 (2.0)\n"
    text = "".join(line.format(epoch, at) for epoch in (0, 1) for at in (0, 10))
    assert [row["step"] for row in rows(write_text(tmp_path, "a.log", text))[0]] == ["0", "10", "20", "30"]


def test_steps_that_a_tool_counts_anew_in_each_epoch_are_counted_on(tmp_path):
    line = "- mmengine - INFO - Epoch(train)  [{}][ {}/300]  lr: 1.0000e-03  loss: 1.5  grad_norm: {}.0\n"
    text = "".join(line.format(epoch, at, epoch * at) for epoch in (1, 2) for at in (100, 200, 300))
    text += "- mmengine - INFO - Epoch(val)  [2][100/100]  lr: 1e-3  loss: 9.0  grad_norm: 9.0\n"
    history = read([write_text(tmp_path, "a.log", text)])
    assert [point.step for point in history.points] == [100, 200, 300, 400, 500, 600]
    assert [point.norm for point in history.points] == [100.0, 200.0, 300.0, 200.0, 400.0, 600.0]


def test_epochs_of_unknown_length_are_counted_on(tmp_path):
    line = "(trainer:737) INFO: {}epoch:train:{}-{}batch: loss=2.5, grad_norm={}.5, clip=100.000, optim0_lr0=1e-04\n"
    text = "".join(line.format(epoch, at - 99, at, epoch) for epoch in (1, 2, 3) for at in (100, 200))
    text += "(trainer:343) INFO: 3epoch results: [train] loss=9.0, grad_norm=9.0, optim0_lr0=1e-04\n"
    history = read([write_text(tmp_path, "a.log", text)])
    assert [point.step for point in history.points] == [100, 200, 300, 400, 500, 600]
    assert [point.norm for point in history.points] == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]


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
    (found,), told, _ = rows(file)
    assert told == "the pattern of torchtitan"
    expected = float(number)
    assert float(found["grad_norm"]) == expected or (math.isnan(expected) and math.isnan(float(found["grad_norm"])))
    assert found["step"] == "7"


def test_of_several_tools_the_one_with_most_lines_is_taken(tmp_path):
    lines = [LOGS["llm.c"].format(step=1, loss=1.0, norm=2.0, lr=0.1)]
    lines += [LOGS["torchtitan"].format(step=step, loss=1.0, norm=3.0) for step in (1, 2)]
    found, told, _ = rows(write_text(tmp_path, "a.log", "\n".join(lines)))
    assert told == "the pattern of torchtitan"
    assert [float(row["grad_norm"]) for row in found] == [3.0, 3.0]


def test_progress_bars_that_return_to_the_start_of_their_line_are_lines(tmp_path):
    text = "\r".join(f"n {step} norm {step}.5" for step in range(3))
    found, *_ = rows(write_text(tmp_path, "a.log", text), r"n (?P<step>\d+) norm (?P<norm>\S+)")
    assert [row["grad_norm"] for row in found] == ["0.5", "1.5", "2.5"]


def test_a_line_without_end_is_cut_and_bytes_that_are_no_text_are_passed_over(tmp_path):
    (tmp_path / "a.log").write_bytes(b"\xff\xfe norm 2.0 " + b"x" * 100_000 + b" norm 3.0\nnorm 4.0\n")
    found, *_ = rows(tmp_path / "a.log", r"norm (?P<norm>\S+)(?!.*norm)")
    assert [row["grad_norm"] for row in found] == ["2.0", "4.0"]


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(CannotImport, match="can't be read"):
        rows(tmp_path / "missing.log")


def test_lines_without_norm_and_loss_are_known_and_that_is_said(tmp_path):
    line = "[2026-01-01 10:00:00,000] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=0, lr=[0.001], mom=[]"
    with pytest.raises(CannotImport, match="DeepSpeed's own lines contain neither a gradient norm nor a loss"):
        rows(write_text(tmp_path, "a.log", f"{line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("iter {step}: loss {loss:.4f}, time 120.31ms, mfu 30.02%", id="nanoGPT"),
        pytest.param("step {step:5d} | loss: {loss} | lr 1.0e-03 | ", id="build-nanogpt"),
        pytest.param(
            " iteration {step:8d}/ 9 | learning rate: 1.0E-04 | lm loss: {loss} | loss scale: 1.0 |", id="Megatron-LM"
        ),
        pytest.param("{{'loss': {loss}, 'learning_rate': 1e-4, 'epoch': 0.1}}", id="the Trainer"),
        pytest.param("Epoch {step} train loss {loss} val loss 9.0", id="names"),
        pytest.param("Epoch {step}, val loss: 9.0, loss: {loss}", id="the validation first"),
    ],
)
def test_lines_of_the_loss_alone_are_read(tmp_path, line):
    losses = [2.5, float("nan"), 2.0, 1.5]
    text = "\n".join(line.format(step=step, loss=loss) for step, loss in enumerate(losses))
    history = read([write_text(tmp_path, "train.log", f"{text}\nvalidation: loss 7.0, step 3\n")])
    assert [point.loss for point in history.points] == pytest.approx(losses, nan_ok=True)
    assert {point.norm for point in history.points} == {None}


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
    "iteration: 1 / 1 | lm_loss: 1 lr: 1 grad_norm: " * 210,
    "step:1 smpl: loss:1 grdn:1 lr: " * 320,
    "Epoch: [1] [1/9] lr: 1 loss: 1 grad_norm: " * 230,
    "Train Summary | Epoch 1 | lr=1 loss=1 grad_norm= " * 200,
    "'loss/train': '1' 'grad_norm': '1' 'counters/updates': " * 180,
    "[step=1/ train/CrossEntropyLoss=1 optim/total_grad_norm= " * 170,
    "iter: 1 total_loss: 1 lr: " * 380,
    "100%|1/1 [ 9%|" * 700,
    "100%|" + "x" * 9900,
    "[1/1][1/1] Loss_D: 1 Loss_G: " * 340,
    "D loss: G loss=" * 660,
    "Epoch 1/1 1/1 [" + "=" * 9900,
    "1/1 [" * 2000,
    "Epoch 1/1 1/1 [=] - loss: " * 380,
)


@pytest.mark.parametrize(
    "line",
    HOSTILE,
    ids=["Megatron-LM", "llm.c", "fairseq", "Transformers", "OpenMMLab", "verl", "epochs"]
    + ["nanotron", "LeRobot", "BEiT", "audiocraft", "DPO", "OLMo", "detectron2", "bars", "a bar", "DCGAN", "rivals"]
    + ["Keras", "Keras' bars", "Keras' losses"],
)
def test_a_hostile_line_takes_quadratic_time_at_most(line):
    """Four times the length takes about 16 times as long; with cubic patterns it took 64 and 256 times."""
    known = (re.compile(text, re.IGNORECASE) for text in text_log.PATTERNS.values())
    others = [of for module in (text_log, epoch_lines) for of in vars(module).values() if isinstance(of, re.Pattern)]
    pattern = max((*known, *text_log._NAMED.values(), *others), key=lambda p: taken(p, line))
    assert taken(pattern, line) < 40 * taken(pattern, line[: len(line) // 4]) + 0.01


def taken(pattern, line):
    """The least processor time of three searches."""
    times = []
    for _ in range(3):
        began = time.process_time()
        pattern.search(line)
        times.append(time.process_time() - began)
    return min(times)


NAMED = {
    "bars": "step {step} || loss: {loss:.6f} || lr: {lr:.4e} || l2_norm: {norm:.4f} || time: 0.3s",
    "commas": "12:00:01 - INFO - update {step}, rl_loss: {loss}, l2_norm: {norm}, lr: {lr}, token_entropy: 0.8",
    "equals": "iter={step} loss={loss:.6f} gnorm={norm:.4f} lr={lr:g} weight_norm=33.0",
    "words": "Step [{step}/1000] | Train Loss {loss:.6f} | weight norm 33.0 | Gradient Norm {norm:.4f}"
    " | Learning Rate {lr}",
    "a norm alone": "step {step:6d}, loss {loss:.6f}, norm {norm:.4f}, lr {lr:g}, dt 33ms",
}


@pytest.mark.parametrize("kind", NAMED)
def test_lines_that_name_their_values_are_read(tmp_path, kind):
    lines = [NAMED[kind].format(step=r["step"], loss=r["loss"], norm=r["grad_norm"], lr=r["lr"]) for r in ROWS]
    file = write_text(tmp_path, "train.log", "max_grad_norm: 1.0, step 3\n" + "\n".join(lines))
    history = read([file])
    assert history.source == "train.log by names before values"
    for found, wanted in zip(values(history), EXPECTED, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("step {}, loss 1.0, weight norm 33.0", id="the norm of weights"),
        pytest.param("step {}, loss 1.0, max_grad_norm: 1.0", id="a threshold"),
        pytest.param("step {}, loss 1.0, grad_norm: none", id="no number"),
    ],
)
def test_what_is_no_gradient_norm_is_not_taken_for_one(tmp_path, line):
    file = write_text(tmp_path, "a.log", "\n".join(line.format(step) for step in range(5)))
    assert [(point.step, point.norm, point.loss) for point in read([file]).points] == [(n, None, 1.0) for n in range(5)]


@pytest.mark.parametrize("line", ["grad_norm: 1.0, name {}", "loss: 1.0, name {}", "step {}: eval loss 1.0"])
def test_lines_without_a_place_in_the_training_are_not_taken(tmp_path, line):
    file = write_text(tmp_path, "a.log", "\n".join(line.format(step) for step in range(5)))
    with pytest.raises(CannotImport, match="no line like those"):
        read([file])


def test_a_line_of_a_known_tool_counts_more_than_names(tmp_path):
    known = LOGS["build-nanogpt"].format(step=1, loss=2.0, norm=1.5, lr=0.1)
    history = read([write_text(tmp_path, "a.log", known + "\n" + "val step 2, loss: 9.0, grad_norm: 9.0\n" * 3)])
    assert [point.norm for point in history.points] == [1.5]


def test_rows_are_counted_where_not_all_lines_print_a_step(tmp_path):
    file = write_text(tmp_path, "a.log", "step 5, loss 1.0, grad_norm 2.0\nloss 1.0, grad_norm 3.0\n")
    assert [(point.step, point.norm) for point in read([file]).points] == [(0, 2.0), (1, 3.0)]


@pytest.mark.parametrize(
    "line",
    [
        "{{'step': {step}, 'grad_norm': np.float64({norm}), 'loss': np.float32({loss}), 'lr': {lr}}}",
        "step {step} loss tensor({loss}, grad_fn=<MeanBackward0>) grad_norm tensor({norm}, device='cuda:0') lr {lr}",
        '{{"step": {step}, "grad_norm": {norm}, "loss": {loss}, "lr": {lr}}}',
    ],
)
def test_values_of_numpy_and_pytorch_are_read(tmp_path, line):
    text = "\n".join(line.format(norm=row["grad_norm"], **row) for row in ROWS)
    assert values(read([write_text(tmp_path, "a.log", text)])) == EXPECTED


def test_a_pattern_of_ones_own_sees_the_line_as_it_is(tmp_path):
    file = write_text(tmp_path, "a.log", "step 1 norm tensor(2.5)")
    (found,) = rows(file, r"step (?P<step>\d+) norm tensor\((?P<norm>[\d.]+)\)")[0]
    assert found == {"step": "1", "grad_norm": "2.5"}


def bars(desc, lengths, *, loss=lambda n: 1 / (n + 1), every=9):
    text, n = "", 0
    for epoch, length in enumerate(lengths, 1):
        for at in range(0, length + 1, every):
            text += f"\r{desc.format(epoch=epoch)}{100 * at // length:3}%|███▎      | {at}/{length} [00:01<00:00"
            text += f", 131.88it/s, loss={loss(n):.6g}, acc=0.79]"
            n += 1
        text += "\n"
    return text


@pytest.mark.parametrize("desc", ["", "Epoch {epoch}/3: ", "Training: ", "epoch {epoch}: "])
def test_progress_bars_of_tqdm_are_read_with_their_places(tmp_path, desc):
    history = read([write_text(tmp_path, "a.log", bars(desc, [153, 153, 153]))])
    expected = {153 * epoch + at: 1 / (18 * epoch + at // 9 + 1) for epoch in range(3) for at in range(0, 154, 9)}
    assert {point.step: point.loss for point in history.points} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("other", ["Validating: ", ""])
def test_the_bars_of_validations_are_left_out(tmp_path, other):
    text = "".join(
        bars("Training: ", [90], loss=lambda n: 2.0) + bars(other, [36], loss=lambda n: 9.0) for _ in range(3)
    )
    points = read([write_text(tmp_path, "a.log", text)]).points
    assert {point.loss for point in points} == {2.0}
    assert max(point.step for point in points) == 270


def test_lines_of_a_script_count_more_than_bars_between_them(tmp_path):
    lines = (f"\nEpoch {epoch}: train loss: {epoch}.5\n" for epoch in range(3))
    text = "".join(bars("", [90]) + line for line in lines)
    assert [point.loss for point in read([write_text(tmp_path, "a.log", text)]).points] == [0.5, 1.5, 2.5]


D2 = (
    "[01/29 06:25:28 d2.utils.events]:  eta: 0:00:00  iter: {step}  total_loss: {loss}  loss_cls: 0.210  "
    "loss_box_reg: 0.3  loss_rpn_loc: 0.103  time: 0.6797  data_time: 0.1221  lr: {lr}  max_mem: 4988M\n"
)


def test_the_lines_of_detectron2_are_read(tmp_path):
    each = [(19 + 20 * n, 2.0 / (n + 1), 0.00025 * n) for n in range(1, 9)]
    text = "".join(D2.format(step=step, loss=loss, lr=f"{lr:.6f}") for step, loss, lr in each)
    history = read([write_text(tmp_path, "log.txt", text)])
    assert [(p.step, p.loss, p.learning_rate) for p in history.points] == [
        (s, x, float(f"{lr:.6f}")) for s, x, lr in each
    ]
    assert "detectron2" in history.source
