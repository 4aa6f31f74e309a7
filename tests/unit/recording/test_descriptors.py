"""A process that has no file descriptor left is recorded to its end: what that needs is there from the beginning."""

import subprocess
import sys
import textwrap

import pytest

from gradwatch import Run

CODE = """
import logging, resource, sys, time
import torch
from torch import nn
import gradwatch

logging.basicConfig(format="%(message)s")
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
optimizer = torch.optim.Adam(model.parameters(), 0.001)
with gradwatch.attach(model, optimizer, sys.argv[1], weights_every=10) as watch:
    for step in range(2):  # PyTorch imports modules in its first step
        optimizer.zero_grad(); model(torch.randn(4, 3)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step()
    known = set(sys.modules)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError:
        pass
    for step in range(300):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).square().mean() * {250: 1e6, 280: float("nan")}.get(step, 1.0)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        watch.log(loss=loss)
        if step % 100 == 0:
            assert watch.flush()
watch.close()
for file in held:
    file.close()
print(sorted(set(sys.modules) - known))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the number of open files")
def test_without_a_descriptor_the_recording_goes_on_and_its_detectors_too(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(CODE), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [slug for slug in ("(recording-stopped)", "(detectors-stopped)") if slug in done.stderr] == [], done.stderr
    run = Run(tmp_path / "run")
    assert len(run.steps()) == 302
    assert {"nonfinite"} <= {event.kind for event in run.events()}
    assert run.attempts()[0].reason == "closed"
    assert done.stdout.strip() == "[]", "modules that were imported when no file could be opened"
