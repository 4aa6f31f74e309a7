"""Event files: what TensorBoard itself reads of them, at the number of points that it shows."""

import logging
import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gradwatch
from gradwatch import Run
from gradwatch.sinks.event_files import WINDOWS, highest, scalars, write
from gradwatch.testing import replaced, steady, stream, write_run

from ...prepared import forked


def shown(folder, points=1000):
    """The series as TensorBoard shows them: at most ``points`` of each, drawn at random."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": points, "tensors": points})
    found.Reload()
    return {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}


def test_no_single_step_is_lost_among_the_points_that_tensorboard_shows(tmp_path):
    norms = replaced(steady(100_000), {77_777: 50.0})
    write(stream(norms), tmp_path)
    series = shown(tmp_path)
    largest = series["gradwatch/total_norm_max"]
    assert len(largest) <= 1000
    assert max(point.value for point in largest) == 50.0
    assert [point.step for point in largest if point.value == 50.0] == [77_777]
    assert [point.step for point in largest] == sorted({point.step for point in largest})
    assert len(series) <= 6


@pytest.mark.parametrize("steps", [1, 99, 100, 101, 5000, 1_000_000])
def test_the_number_of_points_grows_with_the_logarithm_of_the_steps(steps):
    """As the windows are chosen, without writing them."""
    points, begun = 0, 0
    for step in range(steps):
        if step - begun + 1 >= max(1, step // WINDOWS):
            points, begun = points + 1, step + 1
    assert points <= 2 * WINDOWS + WINDOWS * math.log(max(1.0, steps / WINDOWS)) + 2
    assert points <= 1200


def test_the_scalars_of_a_window():
    records = stream([1.0, math.inf, 3.0], losses=[1.0, math.nan, 3.0], max_norm=2.0)
    found = scalars(records)
    assert found["total_norm"] == 3.0
    assert found["total_norm_max"] == math.inf
    assert found["clip_coef"] == 0.0
    assert found["clipped_fraction"] == pytest.approx(2 / 3)
    assert found["loss"] == 2.0
    assert found["nonfinite"] == 2.0
    assert math.isnan(scalars(stream([1.0, math.nan]))["total_norm_max"])
    assert "loss" not in scalars(stream([1.0]))


def test_the_record_of_the_largest_norm_is_the_first_with_nan_if_there_is_one():
    assert highest(stream([1.0, 9.0, 9.0])).step == 1
    assert highest(stream([1.0, math.inf, math.nan, math.nan])).step == 2
    assert highest(stream([0.0])).step == 0


def train(run, steps=60, optimizers=1, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    made = [torch.optim.SGD(part.parameters(), 0.01) for part in (model if optimizers == 2 else [model])]
    with gradwatch.attach(model, made, run, **options):
        for _ in range(steps):
            for one in made:
                one.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            for one in made:
                one.step()
    return model


def test_attached_it_writes_beside_the_store_the_numbers_in_it(tmp_path):
    train(tmp_path / "run", tensorboard=True)
    series = shown(tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    points = series["gradwatch/total_norm"]
    assert [point.step for point in points] == steps.index.tolist()
    np.testing.assert_allclose([point.value for point in points], steps["total_norm"], rtol=1e-6)
    np.testing.assert_allclose([p.value for p in series["gradwatch/loss"]], steps["loss"], rtol=1e-6)
    np.testing.assert_allclose([p.wall_time for p in points], steps["wall_time"], atol=1e-3)


def test_several_optimizers_have_series_of_their_own(tmp_path):
    train(tmp_path / "run", optimizers=2, tensorboard=True)
    assert {"gradwatch/0/total_norm", "gradwatch/1/total_norm"} <= set(shown(tmp_path / "run"))


def test_no_event_file_is_written_by_default(tmp_path):
    train(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["gradwatch.db"]


def test_the_weights_are_those_without_it(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b", tensorboard=True)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_event_files_that_fail_end_alone(tmp_path, monkeypatch, caplog):
    from gradwatch.sinks.event_files import EventFiles

    def fail(self, record):
        raise OSError("no space")

    monkeypatch.setattr(EventFiles, "add", fail)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "run", tensorboard=True)
    assert "no space (mirror-stopped)" in caplog.text
    assert caplog.text.count("mirror-stopped") == 1
    assert len(Run(tmp_path / "run").steps()) == 60


def test_a_recorded_run_is_exported(tmp_path, command):
    write_run(tmp_path / "run", stream(replaced(steady(3000), {2000: 30.0})))
    done = command("export", tmp_path / "run", "--tensorboard", tmp_path / "logs")
    assert done.code == 0, done.err
    assert "the scalars of 3000 steps" in done.out
    assert max(p.value for p in shown(tmp_path / "logs")["gradwatch/total_norm_max"]) == 30.0


def test_an_export_that_can_not_be_written_is_an_error(tmp_path, command):
    write_run(tmp_path / "run", stream(steady(10)))
    (tmp_path / "file").write_text("x")
    run = tmp_path / "run"
    assert "expected a file, --to and a tracker, or --tensorboard" in command("export", run).err
    assert "can't be written" in command("export", run, "--tensorboard", tmp_path / "file").err


def test_an_unchanged_script_can_have_event_files(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\nmodel = torch.nn.Linear(2, 1)\noptimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(20):\n    model(torch.ones(1, 2)).sum().backward()\n    optimizer.step()\n"
    )
    done = forked().run(["-m", "gradwatch", "run", "--tensorboard", "--run", "run", "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(shown(tmp_path / "run")["gradwatch/total_norm"]) == 20
