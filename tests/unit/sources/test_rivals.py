"""Logs with a loss for each of two rivals and none of the whole: those of GANs and of actor-critic methods."""

import json
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import read, write
from gradwatch.sources.names import rivals

CRITIC = [0.7 + 0.1 * math.sin(n / 9) for n in range(120)]
MAKER = [1.0 + n / 40 for n in range(120)]  # grows as the critic learns, which is no fault


def lost(losses, step):
    return losses[:step] + [math.nan] * (len(losses) - step)


def log(tmp_path, form, first="D/loss", second="G/loss", losses=(CRITIC, MAKER), **more):
    rows = [
        {"step": n, first: d, second: g} | {name: values[n] for name, values in more.items()}
        for n, (d, g) in enumerate(zip(*losses, strict=True))
    ]
    file = tmp_path / f"a.{form}"
    if form == "csv":
        file.write_text("\n".join([",".join(rows[0]), *(",".join(map(repr, row.values())) for row in rows)]))
    elif form == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif form == "txt":
        lines = (f"step {row['step']} [D loss: {row[first]}] [G loss: {row[second]}]" for row in rows)
        file.write_text("\n".join(lines))
    else:
        from torch.utils.tensorboard import SummaryWriter

        file = tmp_path / "logs"
        with SummaryWriter(str(file)) as writer:
            for row in rows:
                for name in row.keys() - {"step"}:
                    writer.add_scalar(name, row[name], row["step"])
    return file


def imported(file, tmp_path, **options):
    return Run(write(read([file], **options), tmp_path / "run").run)


@pytest.mark.parametrize("form", ["csv", "jsonl", "events", "txt"])
def test_each_rival_is_an_optimizer_with_its_own_loss(tmp_path, form):
    run = imported(log(tmp_path, form), tmp_path)
    assert sorted(run.optimizers) == ["D", "G"]
    assert run.steps("D")["loss"].tolist() == pytest.approx(CRITIC)
    assert run.steps("G")["loss"].tolist() == pytest.approx(MAKER)
    assert run.summary().verdict == "healthy"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_loss_that_is_lost_is_found_in_either(tmp_path, form):
    run = imported(log(tmp_path, form, losses=(CRITIC, lost(MAKER, 90))), tmp_path)
    (first, *_) = run.diagnosis()
    assert (first.code, first.steps) == ("nonfinite-loss", (90, 119))
    assert run.summary().optimizer == "G"


def test_what_was_taken_is_said(tmp_path):
    notes = read([log(tmp_path, "csv")]).notes
    assert "taken: 'D/loss' and 'G/loss', each as the loss of an optimizer of its own; --loss takes one alone" in notes
    assert not any("'G/loss'" in note for note in notes if note.startswith(("left out", "not found: the loss")))


def test_one_is_taken_alone_where_it_is_named(tmp_path):
    run = imported(log(tmp_path, "csv"), tmp_path, loss="G/loss")
    assert list(run.optimizers) == ["0"]
    assert run.steps()["loss"].tolist() == pytest.approx(MAKER)


@pytest.mark.parametrize("other", ["reward", "grad_norm"])
def test_beside_a_reward_or_a_norm_no_part_is_the_loss(tmp_path, other):
    file = log(tmp_path, "jsonl", "policy_loss", "value_loss", **{other: MAKER})
    history = read([file])
    taken = [point.reward if other == "reward" else point.norm for point in history.points]
    assert taken == pytest.approx(MAKER)
    assert {point.loss for point in history.points} == {None}
    assert any(note.startswith("'policy_loss' and 'value_loss' are losses of parts") for note in history.notes)


@pytest.mark.parametrize("whole", ["loss", "total_loss", "train/loss"])
def test_a_loss_of_the_whole_is_taken_before_those_of_rivals(tmp_path, whole):
    history = read([log(tmp_path, "csv", **{whole: MAKER[::-1]})])
    assert [point.loss for point in history.points] == pytest.approx(MAKER[::-1])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["losses/value_loss", "losses/policy_loss", "losses/entropy"], {"value", "policy"}),  # CleanRL's PPO
        (["losses/qf1_loss", "losses/qf2_loss", "losses/qf_loss", "losses/actor_loss"], {"qf", "actor"}),  # its SAC
        (["train/policy_gradient_loss", "train/value_loss"], {"policy_gradient", "value"}),  # Stable-Baselines3
        (["Loss/G/loss", "Loss/D/loss", "Loss/scores/fake"], {"G", "D"}),  # StyleGAN
        (["loss/g/total", "loss/d/total", "loss/g/mel"], {"g", "d"}),  # VITS
        (["generator_loss", "critic_loss"], {"generator", "critic"}),
        (["seg/loss", "cls/loss"], set()),
        (["D/loss"], set()),
        (["D/loss", "val/G/loss"], set()),
        (["D/accuracy", "G/accuracy"], set()),
    ],
)
def test_rivals_are_known_by_the_names_that_tools_give_them(names, expected):
    found = rivals(names)
    assert set(found) == expected
    assert set(found.values()) <= set(names)


def test_of_parts_of_another_kind_one_is_taken_and_that_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("step,seg/loss,cls/loss\n1,2.0,3.0\n")
    history = read([tmp_path / "a.csv"])
    assert [point.loss for point in history.points] == [2.0]
    assert "'seg/loss' may be the loss of a part alone; --loss takes another: 'cls/loss'" in history.notes


# As https://github.com/pytorch/examples prints it with two epochs of 1583 batches, and PyTorch-GAN's scripts.
DCGAN = "[{epoch}/2][{batch}/1583]\tLoss_D: {d:.4f}\tLoss_G: {g:.4f}\tD(x): 0.5054\tD(G(z)): 0.5928 / 0.0106\n"
SCRIPT = "[Epoch {epoch}/2] [Batch {batch}/1583] [D loss: {d:f}] [G loss: {g:f}]\n"
TUTORIAL = "Epoch [{epoch}/2], Step [{batch}/1583], Loss_D: {d:.4f}, Loss_G: {g:.4f}\n"


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        (DCGAN, [0, 50, 100, 1583, 1633, 1683]),
        (SCRIPT, [0, 1, 2, 3, 4, 5]),
        (TUTORIAL, [0, 50, 100, 150, 200, 250]),
    ],
)
def test_printed_losses_of_rivals_are_read(tmp_path, line, steps):
    each = [(epoch, batch) for epoch in range(2) for batch in (0, 50, 100)]
    text = "".join(line.format(epoch=epoch, batch=batch, d=0.5 + epoch, g=batch / 8) for epoch, batch in each)
    (tmp_path / "a.txt").write_text(text)
    history = read([tmp_path / "a.txt"])
    of = {name: [point for point in history.points if point.optimizer == name] for name in ("D", "G")}
    assert [point.loss for point in of["D"]] == [0.5 + epoch for epoch, _ in each]
    assert [point.loss for point in of["G"]] == [batch / 8 for _, batch in each]
    assert [point.step for point in of["D"]] == [point.step for point in of["G"]] == steps
    assert "taken: " in history.notes[0]
    assert "'D'" in history.notes[0]


def test_losses_of_a_test_are_no_rivals_of_the_training(tmp_path):
    lines = ["step {n} D loss: 1.0 G loss: 2.0\n", "Evaluation at step {n}: D loss: 8.0 G loss: 9.0\n"]
    (tmp_path / "a.txt").write_text("".join(line.format(n=n) for n in range(3) for line in lines))
    assert {point.loss for point in read([tmp_path / "a.txt"]).points} == {1.0, 2.0}


def test_steps_are_counted_once(tmp_path):
    made = write(read([log(tmp_path, "csv")]), tmp_path / "run")
    assert (made.steps, made.every) == (120, 1)
    assert np.diff(Run(tmp_path / "run").steps("G").index).tolist() == [1] * 119


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_loss_of_one_rival_alone_is_not_taken_for_the_trainings(tmp_path, form):
    rows = [{"step": n, "d_loss": "", "g_loss": loss} for n, loss in enumerate(MAKER)]
    file = tmp_path / f"a.{form}"
    texts = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    file.write_text("\n".join(texts if form == "csv" else map(json.dumps, rows)))
    with pytest.raises(CannotImport, match="Name one with --norm or --loss"):
        read([file])
    assert [point.loss for point in read([file], loss="g_loss").points] == MAKER


def test_rows_with_the_loss_of_either_rival_count(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("step,d_loss,g_loss\n" + "".join(f"{n},0.5,\n{n},,0.7\n" for n in range(9)))
    history = read([file])
    assert [point.optimizer for point in history.points] == ["d"] * 9 + ["g"] * 9
    assert not any("left out" in note for note in history.notes)
