"""The loss of each threshold that tune tried."""

import math

import pytest

from gradwatch.script.tune import Trial, Tuning
from gradwatch.views.console.screen import Screen
from gradwatch.views.console.tune import tuning


def trial(max_norm, loss, steps=100, **more):
    usual = {"made": steps, "error": None, "clipped_fraction": 0.1}
    return Trial(max_norm=max_norm, steps=steps, loss=loss, **usual | more)


def found(*trials, **more):
    usual = {"best": 1.0, "low": 0.25, "high": math.inf, "matters": True, "verdict": "clip at 1"}
    return Tuning(trials=trials, **usual | more)


def test_a_higher_loss_has_a_longer_bar_and_a_lost_training_none(drawn):
    trials = (trial(1.0, 0.5), trial(4.0, 0.75), trial(16.0, 1.0), trial(math.inf, None, made=40))
    lines = drawn(tuning(found(*trials), Screen()), 80)
    rows = {line.split()[0]: line for line in lines if line[:10].strip() in ("1", "4", "16", "none")}
    assert [rows[key].count("█") for key in ("1", "4", "16")] == [1, 16, 32] or rows["16"].count("█") == 32
    assert rows["1"].count("█") < rows["4"].count("█") < rows["16"].count("█")
    assert rows["none"].split() == ["none", "40", "10%", "lost"]
    assert max(map(len, lines)) <= 80


def test_the_verdict_comes_first_then_the_range_and_the_line_to_paste(drawn):
    lines = drawn(tuning(found(trial(1.0, 0.5)), Screen()))
    assert lines[:3] == [
        "● clip at 1",
        "  anything from 0.25 to no clipping did as well, within the noise",
        "  torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1)",
    ]


def test_a_clip_call_of_the_script_that_has_no_effect_is_said(drawn):
    made = found(trial(1.0, 0.5), clip_fault="clipping was called before backward")
    lines = drawn(tuning(made, Screen()), 80)
    text = " ".join(" ".join(lines).split())
    assert "the script's own clip call has no effect: clipping was called before backward." in text
    assert max(map(len, lines)) <= 80
    assert "no effect" not in "\n".join(drawn(tuning(found(trial(1.0, 0.5)), Screen())))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_bars_say_where_they_begin(drawn, width):
    lines = drawn(tuning(found(trial(1.0, 0.5), trial(4.0, 1.0)), Screen(width=width)), width)
    assert "bars start at the lowest loss" in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width


def test_where_clipping_does_not_matter_nothing_is_pasted(drawn):
    text = "\n".join(drawn(tuning(found(trial(1.0, 0.5), matters=False, verdict="it does not matter"), Screen())))
    assert "clip_grad_norm_" not in text
    assert "did as well" not in text


def test_a_candidate_that_was_dropped_is_said_and_has_no_bar(drawn):
    lines = drawn(tuning(found(trial(1.0, 0.5), trial(4.0, 0.1, steps=25, made=1)), Screen()))
    (line,) = [line for line in lines if line.strip().startswith("4 ")]
    assert line.endswith("not among the best after 1 step")


@pytest.mark.parametrize("losses", [[None, None], [0.5, 0.5], [math.inf, 1.0], [0.0, 0.0]])
def test_strange_losses_are_drawn(drawn, losses):
    trials = [trial(float(i + 1), loss) for i, loss in enumerate(losses)]
    lines = drawn(tuning(found(*trials, best=None, low=None, high=None), Screen()), 80)
    assert max(map(len, lines)) <= 80


def test_no_trial_at_all_is_drawn(drawn):
    assert drawn(tuning(found(best=None, low=None, high=None, matters=False), Screen()), 80)
