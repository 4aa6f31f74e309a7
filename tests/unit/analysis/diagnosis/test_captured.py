"""A finding about a captured step says what its replay found, or how to replay it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.diagnosis.captured import with_captures
from gradwatch.analysis.diagnosis.pages import PAGES
from gradwatch.analysis.replays.result import Origin, Replay, RowFinding
from gradwatch.capture import CaptureInfo


def finding(code="nonfinite-gradient", steps=(7, 7), optimizer="0"):
    return Finding(
        code=code,
        severity="critical",
        certainty="shown",
        what="w",
        optimizer=optimizer,
        steps=steps,
        cause="some root",
        remedy="guard it",
        confirm="look",
    )


def capture(step=7, optimizer="0", replayable=True):
    return CaptureInfo(
        folder=Path(f"runs/a/captures/step-{step:06d}"),
        step=step,
        optimizer=optimizer,
        why="nonfinite",
        bytes=10,
        total_norm=1.0,
        limit=None,
        replayable=replayable,
        not_kept=() if replayable else ("an input was changed",),
        model="M",
        rank=0,
        wall_time=None,
        has_weights=True,
    )


ORIGIN = Origin(direction="forward", module="att", operation="aten._softmax", file="/a/model.py", line=41)
REPLAY = Replay(
    run="r",
    step=7,
    optimizer="0",
    why="nonfinite",
    recurs="bitwise",
    batch_size=8,
    origin=ORIGIN,
    rows=(RowFinding(row=3, norm=float("nan"), stands_out=True, odd=("all its keys are masked",)),),
)


def told(one, captures=(), replays=()):
    return with_captures([one], captures, replays, "runs/a")[0]


def test_the_cause_is_what_the_replay_found():
    found = told(finding(), [capture()], [REPLAY])
    assert found.cause == (
        "by the replay of step 7: began in att (aten._softmax, model.py:41); row 3 of 8; happens again bit for bit;"
        " row 3: all its keys are masked"
    )
    assert found.remedy == "guard it"
    assert found.as_dict()["capture"]["replayed"].startswith("began in att")
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_two_oddities_of_the_row_are_told():
    row = RowFinding(row=3, norm=float("nan"), stands_out=True, odd=("ids: all 0", "pad: all masked", "a third"))
    cause = told(finding(), [capture()], [replace(REPLAY, rows=(row,))]).cause
    assert cause.endswith("row 3: ids: all 0 and pad: all masked")


def test_the_command_names_the_optimizer_where_several_have_a_capture_of_the_step():
    others = [capture(optimizer="the critic"), capture()]
    assert "`gradwatch replay runs/a --step 7 --optimizer 0` prints" in told(finding(), others, [REPLAY]).confirm
    assert told(finding(), others).confirm.startswith("`gradwatch replay runs/a --step 7 --optimizer 0 SCRIPT`")
    critic = told(replace(finding(), optimizer="the critic"), others)
    assert "--optimizer 'the critic' SCRIPT`" in critic.remedy
    apart = told(finding(), [capture(3, optimizer="the critic"), capture()])
    assert "--optimizer" not in apart.remedy


def test_usual_causes_stay_where_the_replay_found_no_place():
    plain = Replay(run="r", step=7, optimizer="0", why="nonfinite", recurs="no")
    assert told(finding(), [capture()], [plain]).cause == ("some root; by the replay of step 7: does not happen again")


def test_a_capture_that_was_not_replayed_is_the_next_thing_to_do():
    found = told(finding(), [capture()])
    assert found.remedy.startswith("`gradwatch replay runs/a --step 7 SCRIPT` names the operation")
    assert found.remedy.endswith("then guard it")
    assert found.as_dict()["capture"] == {
        "step": 7,
        "folder": str(Path("runs/a/captures/step-000007")),
        "replayable": True,
        "replayed": None,
    }


def test_a_capture_that_can_not_be_replayed_is_no_next_thing():
    found = told(finding(), [capture(replayable=False)])
    assert found.remedy == "guard it"
    assert "can't be replayed: an input was changed" in found.confirm


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (finding(), capture(step=30)),
        (finding(), capture(optimizer="critic")),
        (finding(steps=None), capture()),
        (finding(code="threshold-idle"), capture()),
    ],
)
def test_a_finding_about_something_else_stays_as_it_is(one, kept):
    assert told(one, [kept], [REPLAY]) == one
    assert one.as_dict()["capture"] is None


def test_growth_that_began_with_the_update_of_a_captured_step_is_about_it():
    assert told(finding("diverged", steps=(8, 90)), [capture(7)]).capture.step == 7


def test_of_several_captures_one_that_was_replayed_is_told():
    found = told(finding("diverged", steps=(5, 90)), [capture(6), capture(7)], [REPLAY])
    assert found.capture.step == 7


def test_every_code_is_one_of_a_page():
    from gradwatch.analysis.diagnosis.captured import OF_A_STEP

    assert set(PAGES) >= OF_A_STEP


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return self.layer(x).abs().sqrt() * (x.abs().sum(1, keepdim=True) > 0)


def test_a_run_says_it_before_and_after_the_replay(tmp_path):
    torch.manual_seed(0)
    model = Root()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for step in range(8):
            x = torch.randn(4, 3)
            if step == 7:
                x[2] = 0.0
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    run = Run(tmp_path / "run")
    assert f"`gradwatch replay {tmp_path / 'run'} --step 7 SCRIPT`" in run.summary().next
    assert run.captures()[0].folder.name == "step-000007"

    gradwatch.replay(run.captures()[0].folder, model)
    (one,) = [found for found in Run(tmp_path / "run").diagnosis() if found.code == "nonfinite-gradient"]
    assert "sqrt" in one.cause
    assert "row 2 of 4" in one.cause
    assert "test_captured.py" in one.cause
    assert one.capture.replayed in one.cause
