"""What `gradwatch replay` prints fits the terminal."""

import math

import pytest
from rich.cells import cell_len

from gradwatch.analysis.replays.result import Help, Origin, Replay, RowFinding
from gradwatch.views.console.replay import replay_lines, replayed_lines
from gradwatch.views.console.screen import Ink, Screen

REPLAY = Replay(
    run="runs/first",
    step=137,
    optimizer="0",
    why="nonfinite",
    captured_norm=math.nan,
    replayed_norm=math.nan,
    recurs="bitwise",
    origin=Origin(
        direction="forward",
        module="transformer.encoder.layers.3.self_attention",
        operation="aten._softmax",
        file="/home/a/model.py",
        line=41,
        code="return torch.softmax(scores.masked_fill(mask[:, None, None, :], float('-inf')), dim=-1) @ values",
        observed=math.nan,
        control=0.44,
        control_is="the batch without row 3",
    ),
    batch_size=8,
    rows=(RowFinding(row=3, norm=math.nan, stands_out=True, odd=("key_padding_mask: all 12 keys are masked",)),),
    helps=(Help(change="without row 3", total_norm=0.41),),
    unknown=("float64: the model refuses it",),
)


@pytest.mark.parametrize("screen", [Screen(), Screen(width=120), Screen(ink=Ink(ascii=True))])
def test_it_fits_and_tells_all(screen):
    lines = [line.plain for line in replay_lines(REPLAY, screen, 1, 3)]
    assert max(map(cell_len, lines)) <= screen.width
    text = " ".join(" ".join(lines).split())
    for part in ("STEP 137", "bit for bit", "model.py:41", "row 3 of 8", "all 12 keys are masked", "0.41", "refuses"):
        assert part in text
    assert "capture 1 of 3" in text
    assert not screen.ink.ascii or all(line.isascii() for line in lines)


def test_the_replayed_steps_of_a_report():
    assert replayed_lines((), Screen()) == []
    lines = [line.plain for line in replayed_lines([REPLAY] * 6, Screen())]
    assert lines[0] == "replayed"
    assert "2 more" in lines[-1]
