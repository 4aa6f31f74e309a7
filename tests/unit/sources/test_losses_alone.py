"""A history without gradient norms: the loss is judged, and every view says that norms are not known."""

import json
import math
from contextlib import closing
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.analysis.differences import differences
from gradwatch.analysis.history import RunReader
from gradwatch.errors import CannotImport
from gradwatch.export.scalars import write_scalars
from gradwatch.record import NOT_LOGGED
from gradwatch.sources import read, write
from gradwatch.views import json as json_view
from gradwatch.views import notebook
from gradwatch.views.console import compare, report
from gradwatch.views.console.screen import Screen

STEPS = 300


def falling(seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.05, STEPS)
    return 0.5 + 3 * np.exp(-np.arange(STEPS) / 60) + noise


def run_of(tmp_path, losses, name="run", suffix=".jsonl"):
    file = tmp_path / f"{name}{suffix}"
    if suffix == ".csv":
        cells = ["" if loss is None else repr(float(loss)) for loss in losses]
        file.write_text("step,loss,grad_norm\n" + "".join(f"{step},{cell},\n" for step, cell in enumerate(cells)))
    elif suffix == ".json":
        log = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
        file = tmp_path / "trainer_state.json"
        file.write_text(json.dumps({"log_history": [*log, {"step": len(losses), "eval_loss": 9.0}]}))
    else:
        rows = [{"step": step, "loss": loss, "grad_norm": None} for step, loss in enumerate(losses)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(write(read([file]), tmp_path / name).run)


def codes(run, at_least="warning"):
    return [finding.code for finding in run.diagnosis() if finding.severity != "info" or at_least == "info"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_a_healthy_loss_is_healthy_and_no_norm_is_made_up(tmp_path, suffix):
    run = run_of(tmp_path, falling(), suffix=suffix)
    summary = run.summary()
    assert (summary.verdict, summary.reason) == ("healthy", "no warning in 300 steps, judged without gradients")
    assert (summary.moment, summary.has_norms, summary.nonfinite_steps) == (NOT_LOGGED, False, 0)
    assert summary.total_norm.median is None
    assert summary.series.loss == pytest.approx(falling())
    assert run.steps()["total_norm"].isna().all()
    assert run.events() == []
    advice = run.recommend()
    assert advice.max_norm is None
    assert "the history has no gradient norm" in str(advice)


def test_a_norm_in_one_row_makes_it_a_history_of_norms(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "grad_norm": 0.5}\n')
    (point,) = read([file]).points
    assert (point.step, point.norm) == (2, 0.5)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_to_the_end_is_told_with_its_step(tmp_path, lost):
    losses = falling()
    losses[200:] = lost
    run = run_of(tmp_path, losses)
    first = next(finding for finding in run.diagnosis() if finding.severity == "critical")
    assert first.code == "nonfinite-loss"
    assert first.steps == (200, STEPS - 1)
    assert "the losses before it were normal" in first.what
    assert " norm " not in first.what
    assert run.summary().loss.nonfinite_steps == 100


def test_a_lone_nan_is_no_more_than_a_warning(tmp_path):
    losses = falling()
    losses[150] = math.nan
    found = run_of(tmp_path, losses).diagnosis()
    assert {finding.severity for finding in found} <= {"info", "warning"}
    assert "nonfinite-loss" in {finding.code for finding in found}


def test_growth_that_ends_in_nan_is_the_fault(tmp_path):
    losses = falling()
    losses[200:206] = [3.0, 8.0, 40.0, 300.0, 5000.0, math.nan]
    losses[206:] = math.nan
    (first, *_) = run_of(tmp_path, losses).diagnosis()
    assert first.code == "diverged"
    assert 190 <= first.steps[0] <= 204


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param(np.concatenate([falling()[:200], np.linspace(0.6, 30, 100)]), {"diverged"}, id="grows"),
        pytest.param(np.full(STEPS, 0.6931472), {"constant-loss"}, id="constant"),
        pytest.param(
            np.concatenate([falling()[:150], 2.5 + np.random.default_rng(1).normal(0, 0.05, 150)]),
            {"loss-regressed", "diverged"},
            id="regresses",
        ),
    ],
)
def test_what_the_loss_alone_shows_is_told(tmp_path, losses, expected):
    assert set(codes(run_of(tmp_path, losses))) & expected


def test_findings_of_gradients_and_clipping_need_norms(tmp_path):
    rising = np.concatenate([falling()[:200], np.linspace(0.6, 30, 100)])
    of_gradients = ("norm", "gradient", "clip", "spike", "threshold", "vanishing", "dead", "zero")
    for name, losses in {"falls": falling(), "stands": np.full(STEPS, 2.3), "rises": rising}.items():
        found = codes(run_of(tmp_path, losses, name), at_least="info")
        assert not [code for code in found if any(word in code for word in of_gradients)]


def test_a_reward_alone_is_read(tmp_path):
    file = tmp_path / "a.jsonl"
    rewards = [0.0, 0.03, 0.06, 0.02] * 50
    file.write_text("".join(json.dumps({"step": n, "reward": reward}) + "\n" for n, reward in enumerate(rewards)))
    run = Run(write(read([file]), tmp_path / "run").run)
    assert codes(run) == ["no-progress"]
    assert run.summary().loss is None


def shown(part, width=100):
    console = Console(file=StringIO(), width=width, height=40, force_terminal=False)
    console.print(part(Screen.of(console)))
    return console.file.getvalue()


def test_the_report_says_that_norms_are_not_known_and_draws_no_nan(tmp_path):
    summary = run_of(tmp_path, falling()).summary()
    text = shown(lambda screen: report.report(summary, screen))
    assert "total norm  not known: the history has none" in text
    assert "clipping  not known" in text
    assert "nan" not in text.lower()


def test_runs_without_norms_are_compared_by_their_losses(tmp_path):
    summaries = [run_of(tmp_path, falling(seed), f"run{seed}").summary() for seed in (0, 1)]
    text = shown(lambda screen: compare.comparison(summaries, screen))
    assert "loss: run0" in text
    assert "total norm:" not in text


def test_a_run_without_norms_beside_one_with_norms(tmp_path):
    file = tmp_path / "with.jsonl"
    file.write_text("".join(json.dumps({"step": n, "grad_norm": 1.0, "loss": 2.0}) + "\n" for n in range(100)))
    other = Run(write(read([file]), tmp_path / "with").run)
    summaries = [run_of(tmp_path, falling()).summary(), other.summary()]
    text = shown(lambda screen: compare.comparison(summaries, screen))
    assert "total norm: " in text
    assert "NaN" not in text


def test_json_and_notebook_say_so(tmp_path):
    summary = run_of(tmp_path, falling()).summary()
    found = json_view.report(summary)
    assert (found["moment"], found["total_norm"]["median"], found["nonfinite_steps"]) == (NOT_LOGGED, None, 0)
    assert "total norm: not known" in notebook.render(summary)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        pytest.param(None, ["constant-loss"], id="no reward"),
        pytest.param([0.0] * 50, ["constant-loss", "no-progress"], id="a reward that stands"),
        pytest.param([0.01 * n for n in range(50)], [], id="a reward that rises"),
    ],
)
def test_a_loss_of_0_is_a_surrogates_where_the_reward_moves(tmp_path, rewards, expected):
    rows = [{"step": n, "loss": 0.0} | ({} if rewards is None else {"reward": rewards[n]}) for n in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert codes(Run(write(read([tmp_path / "a.jsonl"]), tmp_path / "run").run)) == expected


def test_a_loss_that_leaves_its_start_at_once_diverged(tmp_path):
    losses = np.concatenate([[0.4], 9.0 + np.random.default_rng(0).normal(0, 0.3, 40)])
    assert codes(run_of(tmp_path, losses)) == ["diverged"]


@pytest.mark.parametrize(("loss", "expected"), [(1e-9, ["no-progress"]), (0.1, [])])
def test_a_reward_of_0_counts_where_a_surrogate_is_0_as_well(tmp_path, loss, expected):
    losses = loss * np.random.default_rng(0).normal(0, 1, 60)
    rows = [{"step": n, "loss": each, "reward": 0.0} for n, each in enumerate(losses.tolist())]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert codes(Run(write(read([tmp_path / "a.jsonl"]), tmp_path / "run").run)) == expected


def points_of(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return [(point.step, point.loss) for point in read([tmp_path / name]).points]


@pytest.mark.parametrize("column", ["split", "phase", "mode"])
def test_rows_that_say_that_they_are_of_validation_have_no_training_loss(tmp_path, column):
    csv = f"step,{column},loss\n1,train,2.0\n1,val,9.0\n2,train,1.0\n2,val,8.0\n"
    assert points_of(tmp_path, "a.csv", csv) == [(1, 2.0), (2, 1.0)]
    rows = [{"step": 1, column: "train", "loss": 2.0}, {"step": 1, column: "valid", "loss": 9.0}]
    assert points_of(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)) == [(1, 2.0)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_steps_that_begin_anew_with_each_epoch_are_counted_on(tmp_path, first, suffix):
    each = [(epoch, first + batch, 9.0 - 3 * epoch - batch) for epoch in range(3) for batch in range(3)]
    text = {
        ".csv": "epoch,step,loss\n" + "".join(f"{epoch},{step},{loss}\n" for epoch, step, loss in each),
        ".jsonl": "".join(f'{{"epoch": {epoch}, "step": {step}, "loss": {loss}}}\n' for epoch, step, loss in each),
        ".txt": "".join(f"Epoch {epoch} Step {step} Loss: {loss}\n" for epoch, step, loss in each),
    }[suffix]
    assert points_of(tmp_path, f"a{suffix}", text) == [(first + n, 9.0 - n) for n in range(9)]


@pytest.mark.parametrize(
    "line",
    [
        "Epoch {n} | KL Loss: 9.9 | Recon Loss: 8.8 | Loss: {n}.5",
        "Epoch {n} | KL Loss: 9.9 | Recon Loss: 8.8 | Total Loss: {n}.5",
        "Epoch {n} best loss: 9.9, loss: {n}.5",
        "Epoch {n} contrastive loss: {n}.5",
        "Epoch {n} Loss: {n}.5\nEpoch {n} holdout loss: 9.9\nValidating epoch {n}: loss=9.9",
    ],
)
def test_neither_a_part_of_a_printed_loss_nor_a_held_out_one_is_taken(tmp_path, line):
    text = "".join(line.format(n=n) + "\n" for n in range(3))
    assert [loss for _, loss in points_of(tmp_path, "a.txt", text)] == [0.5, 1.5, 2.5]


def test_of_several_printed_losses_with_names_none_is_taken(tmp_path):
    with pytest.raises(CannotImport, match="has no line like those"):
        points_of(tmp_path, "a.txt", "Epoch 1 KL loss: 0.5, rec loss: 3.0\nEpoch 2 KL loss: 0.4, rec loss: 3.1\n")
    (tmp_path / "b.txt").write_text("step 1 D loss: 0.5 G loss: 3.0 grad norm: 1.5\n" * 2)
    assert {(point.norm, point.loss) for point in read([tmp_path / "b.txt"]).points} == {(1.5, None)}


def test_an_empty_column_is_passed_over_for_another(tmp_path):
    assert points_of(tmp_path, "a.csv", "step,loss,train_loss\n1,,2.0\n2,,1.0\n") == [(1, 2.0), (2, 1.0)]
    (tmp_path / "b.csv").write_text("step,loss,reward\n1,,0.5\n")
    assert [point.reward for point in read([tmp_path / "b.csv"]).points] == [0.5]
    assert points_of(tmp_path, "c.jsonl", '{"step": 1, "loss": 2.0, "grad_norm": ""}\n') == [(1, 2.0)]


def test_a_state_whose_norms_are_all_null_has_none(tmp_path):
    log = [{"step": 1, "loss": 2.0, "grad_norm": None}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert [point.norm for point in read([tmp_path / "trainer_state.json"]).points] == [None]


def test_a_series_that_may_be_the_norm_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("step,loss,grad_norm_before_clip\n1,2.0,1.5\n")
    notes = read([tmp_path / "a.csv"]).notes
    assert "may be the gradient norm: 'grad_norm_before_clip'; name it with --norm" in notes


def test_json_says_null_for_the_last_norm(tmp_path):
    assert json_view.report(run_of(tmp_path, falling()).summary())["total_norm"]["last"] is None


def test_event_files_of_a_run_without_norms_have_its_loss_alone(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_scalars(run_of(tmp_path, falling()), tmp_path / "events")
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    assert found.Tags()["scalars"] == ["gradwatch/loss"]
    first, *_ = found.Scalars("gradwatch/loss")
    assert (first.step, first.value) == (0, pytest.approx(falling()[0], rel=1e-6))


@pytest.mark.parametrize("other", ["holdout/loss", "cv/loss", "testing/loss", "kl/loss"])
def test_the_training_loss_is_taken_beside_a_shorter_name(tmp_path, other):
    assert points_of(tmp_path, "a.csv", f"step,{other},training/model/loss\n1,9.0,2.0\n") == [(1, 2.0)]


@pytest.mark.parametrize("other", ["holdout/loss", "cv/loss", "testing/loss", "validate/loss", "held_out/loss"])
def test_a_held_out_loss_alone_is_refused(tmp_path, other):
    with pytest.raises(CannotImport, match="no series with the name"):
        points_of(tmp_path, "a.csv", f"step,{other}\n1,9.0\n")


def overfitted():
    """The loss of the training falls; that of the validation after each tenth step turns up."""
    training = 2.0 * np.exp(-np.arange(120) / 30)
    return training, {step: 1.0 + abs(step - 49) / 60 for step in range(9, 120, 10)}


@pytest.mark.parametrize("form", ["csv", "rows of their own", "jsonl", "events"])
def test_the_loss_of_validations_is_read_beside_that_of_the_training(tmp_path, form):
    training, validation = overfitted()
    file = tmp_path / ("a.jsonl" if form == "jsonl" else "a.csv")
    if form == "csv":
        lines = [f"{step},{loss},{validation.get(step, '')}" for step, loss in enumerate(training)]
        file.write_text("\n".join(["step,loss,val_loss", *lines]))
    elif form == "rows of their own":
        own = {step: f"\n{step},,{loss}" for step, loss in validation.items()}
        lines = [f"{step},{loss},{own.get(step, '')}" for step, loss in enumerate(training)]
        file.write_text("\n".join(["step,train_loss,val_loss", *lines]))
    elif form == "jsonl":
        rows = [{"step": step, "loss": loss} for step, loss in enumerate(training)]
        rows += [{"step": step, "eval/loss": loss} for step, loss in validation.items()]
        file.write_text("\n".join(map(json.dumps, [*rows, {"step": 119, "eval/loss": "none yet"}])))
    else:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path / "logs")) as writer:
            for step, loss in enumerate(training):
                writer.add_scalar("train/loss", loss, step)
            for step, loss in validation.items():
                writer.add_scalar("val/loss", loss, step)
        file = tmp_path / "logs"
    history = read([file])
    assert dict(history.validation) == pytest.approx(validation)
    assert [point.loss for point in history.points] == pytest.approx(training)
    assert "overfitting" in codes(Run(write(history, tmp_path / "run").run), at_least="info")


def test_two_histories_are_compared_by_what_both_hold(tmp_path):
    for name, rate in (("first", ', "lr": 0.01'), ("second", "")):
        rows = [
            f'{{"step": {step}, "loss": {loss}{rate}}}' for step, loss in enumerate([3.0, 2.0, 1.0 + len(name), 0.5])
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        write(read([tmp_path / f"{name}.jsonl"]), tmp_path / name)
    with closing(RunReader(tmp_path / "first")) as first, closing(RunReader(tmp_path / "second")) as second:
        (found,) = differences(first, second)
    assert (found.step, found.source, found.name, found.alike) == (2, "loss", "loss", ())


def test_no_remedy_of_a_history_without_norms_is_to_clip(tmp_path):
    losses = np.concatenate([falling()[:200], np.linspace(0.6, 30, 99), [math.inf]])
    (first, *_) = run_of(tmp_path, losses).diagnosis()
    assert (first.code, first.certainty) == ("diverged", "likely")
    assert "clip" not in first.remedy
    assert first.what.endswith("ended in infinity")


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.6, 11.8, 11.6, 10.4, 10.4, 10.3, 10.4], True),
        ([1.6, 1.5, 1.4, 1.3, 4.8, 5.0, 5.1], True),
        ([1.6, 1.5, 1.4, 1.3, 4.8, 1.2, 1.3], False),
        ([1.6, 1.5, 1.7, 1.6, 2.8, 2.9, 3.0], False),
    ],
    ids=["the first row", "the fourth row", "comes back", "by less than twice"],
)
def test_a_few_losses_that_leave_a_row_for_good(tmp_path, losses, told):
    found = [finding.code for finding in run_of(tmp_path, losses).diagnosis()]
    assert ("diverged" in found) == told


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_numbers_printed_with_their_type_and_a_row_before_the_first_step(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    rows = [(-1, "tensor(9.0)"), (0, "tensor(2.5, device='cuda:0')"), (1, "np.float64(2.25)"), (2, "1.5")]
    if suffix == ".csv":
        file.write_text("step,loss\n" + "".join(f'{step},"{loss}"\n' for step, loss in rows))
    else:
        file.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in rows))
    assert [(point.step, point.loss) for point in read([file]).points] == [(0, 2.5), (1, 2.25), (2, 1.5)]
