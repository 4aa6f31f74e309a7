"""What `gradwatch run` was asked for, checked before torch is imported."""

import inspect
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradwatch import clip
from gradwatch.errors import BadArgument
from gradwatch.script.plan import POLICIES, ClipPlan, RecordingPlan, run_of_this_process


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_a_class_that_takes_the_number(name):
    plan = ClipPlan.parse(f"{name}:0.5")
    assert plan.number == 0.5
    policy = getattr(clip, plan.policy)
    assert next(iter(inspect.signature(policy).parameters))
    policy(plan.number)


@pytest.mark.parametrize(
    ("text", "policy", "number"),
    [("1.5", "NormClip", 1.5), ("norm:2", "NormClip", 2.0), ("zclip", "ZClip", None), ("1e-3", "NormClip", 1e-3)],
)
def test_a_number_alone_is_a_threshold_of_the_norm(text, policy, number):
    assert ClipPlan.parse(text) == ClipPlan(policy=policy, number=number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "norm",
        "value:",
        "norm:x",
        "auto:100",
        "quantile:1",
        "quantile:0",
        "clip:1",
        "zclip:nan",
    ],
)
def test_what_is_no_policy_is_refused_with_what_was_expected(text):
    with pytest.raises(BadArgument, match=r"--clip is .*; expected"):
        ClipPlan.parse(text)


@pytest.mark.parametrize(
    ("plan", "expected"), [({}, None), ({"max_norm": 2.0}, 2.0), ({"clip": ClipPlan(policy="ZClip")}, math.inf)]
)
def test_a_policy_takes_the_place_of_the_script_s_own_threshold(plan, expected):
    assert RecordingPlan(run=Path("x"), **plan).replaced_max_norm == expected


def test_a_child_has_a_run_beside_that_of_the_script():
    program = (
        "import multiprocessing, pathlib\n"
        "from gradwatch.script.plan import run_of_this_process\n"
        "def work(queue): queue.put(str(run_of_this_process(pathlib.Path('runs/x'))))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    queue = context.Queue()\n"
        "    child = context.Process(target=work, args=(queue,)); child.start(); print(queue.get()); child.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{Path('runs/x-process-1')}\n"


def test_a_bare_fork_has_its_own_id():
    assert run_of_this_process(Path("runs/x"), is_bare_fork=True) == Path(f"runs/x-process-{os.getpid()}")
