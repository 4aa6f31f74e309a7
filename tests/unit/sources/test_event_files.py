"""Event files, as PyTorch writes them, become runs or a clear error."""

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from gradwatch.errors import CannotImport
from gradwatch.sources import read

from .support import NORMS, assert_norms, imported


def write_events(folder, norms=NORMS, tag="train/grad_norm", first=0, new_style=False):
    with SummaryWriter(str(folder)) as writer:
        for step, norm in enumerate(norms):
            writer.add_scalar(tag, norm, first + step, new_style=new_style)
            writer.add_scalar("train/loss", 1.0 / (1 + step), first + step, new_style=new_style)
            writer.add_scalar("train/lr", 0.1, first + step, new_style=new_style)
            writer.add_scalar("accuracy", 0.5, first + step)


@pytest.mark.parametrize("new_style", [False, True])
def test_event_files_as_pytorch_writes_them(tmp_path, new_style):
    write_events(tmp_path / "logs", new_style=new_style)
    steps = assert_norms(imported([tmp_path / "logs"], tmp_path))
    assert steps["loss"].iloc[1] == pytest.approx(0.5)
    assert steps["learning_rate"].iloc[7] == pytest.approx(0.1)
    assert steps["wall_time"].iloc[0] > 1.6e9


def test_the_detectors_judge_what_was_imported(tmp_path):
    write_events(tmp_path / "logs")
    kinds = {(event.kind, event.step) for event in imported([tmp_path / "logs"], tmp_path).events()}
    assert {("spike", 100), ("nonfinite", 200)} <= kinds


def test_of_a_training_that_was_resumed_the_later_file_stands(tmp_path):
    write_events(tmp_path / "logs", [1.0] * 400)
    first = next((tmp_path / "logs").iterdir())
    first.rename(tmp_path / "logs" / "events.out.tfevents.1.a")
    write_events(tmp_path / "logs", [2.0] * 300, first=300)
    norms = imported([tmp_path / "logs"], tmp_path).steps()["total_norm"]
    assert norms.tolist() == [1.0] * 300 + [2.0] * 300


def test_a_return_has_steps_of_its_own(tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        for step in (10, 20, 30, 40):
            writer.add_scalar("grad_norm", 1.0, step)
        for step, value in [(7, 0.5), (20, -1.0), (22, 3.0), (28, 4.0), (41, 7.0)]:
            writer.add_scalar("return_mean", value, step)
    points = read([tmp_path / "logs"]).points
    assert {point.step: point.reward for point in points} == {10: 0.5, 20: -1.0, 30: 4.0, 40: None}


def test_a_tag_is_named_where_it_can_not_be_told(tmp_path):
    write_events(tmp_path / "logs", tag="g/all")
    assert {point.norm for point in read([tmp_path / "logs"]).points} == {None}
    assert_norms(imported([tmp_path / "logs"], tmp_path, norm="g/all"))
    with pytest.raises(CannotImport, match="no 'nothing'"):
        read([tmp_path / "logs"], norm="nothing")


def test_an_event_file_that_is_cut_off_gives_what_is_whole(tmp_path):
    write_events(tmp_path / "logs")
    (file,) = (tmp_path / "logs").iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    norms = imported([tmp_path / "logs"], tmp_path).steps()["total_norm"]
    assert 450 < len(norms) < 500
    np.testing.assert_allclose(norms, NORMS[: len(norms)], rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 50])
def test_what_is_no_event_file_is_refused(tmp_path, content):
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(content)
    with pytest.raises(CannotImport):
        read([file])


def write_layers(folder, total=None):
    """Norms 3 and 4 of two layers at four steps, the second layer missing at the last; None: no total."""
    with SummaryWriter(str(folder)) as writer:
        for step in range(4):
            writer.add_scalar("grad_2.0_norm/fc.weight", 3.0, step)
            if step < 3:
                writer.add_scalar("grad_2.0_norm/fc.bias", 4.0, step)
            if total is not None:
                writer.add_scalar("grad_2.0_norm_total", total, step)


def test_norms_of_layers_are_taken_beside_a_total(tmp_path):
    write_layers(tmp_path / "logs", total=6.0)
    run = imported([tmp_path / "logs"], tmp_path)
    assert run.steps()["total_norm"].tolist() == [6.0] * 4
    assert run.layers("norm")["fc.weight"].tolist() == [3.0] * 4
    assert run.layers("norm")["fc.bias"].fillna(-1).tolist() == [4.0, 4.0, 4.0, -1.0]


def test_without_a_total_it_is_computed_where_all_layers_are(tmp_path):
    write_layers(tmp_path / "logs")
    history = read([tmp_path / "logs"])
    assert [(point.step, point.norm) for point in history.points] == [(0, 5.0), (1, 5.0), (2, 5.0)]
    assert "the total norm was computed from the norms of 2 layers" in history.notes


def test_a_total_that_adds_norms_is_taken_only_by_name_and_then_said(tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        for tag, value in {"grad/norm/a": 3.0, "grad/norm/b": 4.0, "grad/norm/total": 7.0}.items():
            writer.add_scalar(tag, value, 0)
    assert [point.norm for point in read([tmp_path / "logs"]).points] == [5.0]
    named = read([tmp_path / "logs"], norm="grad/norm/total")
    assert [point.norm for point in named.points] == [7.0]
    assert any("adds the norms of layers" in note for note in named.notes)


def test_norms_of_layers_are_taken_by_the_beginning_of_their_tags_and_it_is_said(tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        for step in range(6):
            writer.add_scalar("gradients/a", 3.0 * step, step)
            writer.add_scalar("gradients/b", 4.0 * step, step)
            writer.add_scalar("accuracy", 0.5, step)
    history = read([tmp_path / "logs"], layers="gradients/")
    assert history.layers == ("a", "b")
    assert [point.norm for point in history.points] == [5.0 * step for step in range(6)]
    assert any("left out" in note and "'accuracy'" in note for note in history.notes)
    assert not any("rows are counted" in note for note in history.notes)
