"""The recommendation in a terminal: the threshold, its reasons, what-if, the line to paste; or the refusal."""

from dataclasses import replace

import pytest

from gradwatch.analysis.recommend import Agreement, Phase, Recommendation, WhatIf
from gradwatch.views.console.recommend import agreement, recommendation
from gradwatch.views.console.screen import Ink, Screen

ADVICE = Recommendation(
    run="demo",
    max_norm=0.25,
    low=0.1,
    high=0.5,
    clipped_fraction=0.333,
    mean_clip_coef=0.9,
    confidence="medium",
    refused=None,
    reasons=("the healthy level is 0.2", "one spike raised an event"),
    phases=(Phase(first_step=0, last_step=99, clipped_fraction=0.0004, mean_clip_coef=1.0),),
    what_if=tuple(
        WhatIf(threshold=t, label=label, clipped_fraction=f, mean_clip_coef=0.5, worst_clip_coef=1e-30)
        for t, label, f in ((0.25, "recommended", 0.333), (1.0, "common default", 0.0))
    ),
    worst_norm=1e28,
)
REFUSED = replace(
    ADVICE, max_norm=None, low=None, high=None, refused="only 60 steps", reasons=(), what_if=(), phases=()
)


def test_the_headline_has_the_threshold_its_range_and_the_confidence(drawn):
    lines = drawn(recommendation(ADVICE, Screen()))
    assert lines[0] == "● max_norm 0.25   anything from 0.1 to 0.5 is supported   confidence medium"
    assert lines[1] == "  would have clipped 33.3% of the steps it is based on, mean clip_coef 0.9"
    assert lines[2] == "  a history can't prove it: `gradwatch tune SCRIPT` finds one by experiment"
    assert "  • the healthy level is 0.2" in lines


@pytest.mark.parametrize("advice", [ADVICE, REFUSED])
def test_of_several_optimizers_the_one_that_the_advice_is_about_is_named(advice, drawn):
    text = "\n".join(drawn(recommendation(replace(advice, optimizer="1", optimizers=("0", "1")), Screen())))
    assert "  for optimizer 1 (of 2: 0, 1); --optimizer chooses another" in text
    assert "optimizer 1" not in "\n".join(drawn(recommendation(replace(advice, optimizers=("1",)), Screen())))


def test_a_confident_recommendation_does_not_send_to_tune(drawn):
    assert "gradwatch tune" not in "\n".join(drawn(recommendation(replace(ADVICE, confidence="high"), Screen())))


def test_a_policy_comes_first_and_the_threshold_second(drawn):
    lines = drawn(recommendation(replace(ADVICE, clip="ZClip()"), Screen()))
    assert lines[0] == "● ZClip() or max_norm 0.25   confidence medium"
    assert lines[1] == "  as a fixed threshold, anything from 0.1 to 0.5 is supported"
    assert "  gradwatch.attach(model, optimizer, run, clip=gradwatch.clip.ZClip())" in lines


def test_a_threshold_by_value_is_in_the_head_and_comes_after_the_one_by_norm(drawn):
    lines = drawn(recommendation(replace(ADVICE, clip_value=0.069), Screen()))
    assert lines[0].startswith("● max_norm 0.25 ")
    assert lines[3] == "  or by value: clip_value 0.069   single entries carry the steps that stood out"
    pasted = lines[lines.index("paste") + 1 :]
    assert "clip_grad_norm_" in pasted[0]
    assert pasted[-1] == "  torch.nn.utils.clip_grad_value_(model.parameters(), 0.069)"
    assert "by value" not in "\n".join(drawn(recommendation(ADVICE, Screen())))


def test_the_tables_have_a_row_for_each_phase_and_threshold(drawn):
    text = "\n".join(drawn(recommendation(ADVICE, Screen())))
    assert "          0 to 99     0.04%          1\n" in text
    assert " threshold   clipped  mean coef       at norm 1e28\n" in text
    assert "      0.25     33.3%        0.5            x 1e-30  ███         recommended\n" in text
    assert "         1        0%        0.5            x 1e-30              common default" in text


def test_what_to_fix_before_clipping_is_said(drawn):
    for advice in (ADVICE, REFUSED):
        lines = drawn(recommendation(replace(advice, fix_first=("the data: step 7",)), Screen()))
        assert lines[lines.index("look at this first") + 1] == "  • the data: step 7"


def test_a_refusal_says_why_and_gives_nothing_to_paste(drawn):
    assert drawn(recommendation(REFUSED, Screen())) == ["○ no recommendation  only 60 steps"]


def test_lines_to_paste_are_whole(drawn):
    lines = drawn(recommendation(ADVICE, Screen()), 80)
    pasted = lines[lines.index("paste") + 1 :]
    assert [line.strip() for line in pasted] == list(ADVICE.apply.values())


@pytest.mark.parametrize("ink", [Ink(), Ink(ascii=True, colour=False)])
def test_several_runs_get_one_recommendation_and_a_line_each(drawn, ink):
    found = Agreement(together=ADVICE, each=(ADVICE, replace(REFUSED, run="a\x1bb")), spread=None)
    lines = drawn(agreement(found, Screen(ink=ink)))
    assert lines[-3:] == [
        " threshold      from        to  confidence  run",
        "      0.25       0.1       0.5  medium      demo",
        "   refused                                  a\\x1bb",
    ]
    assert "max_norm 0.25" in lines[0]
    assert not ink.ascii or "\n".join(lines).isascii()
