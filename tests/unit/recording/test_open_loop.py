"""An optimizer is recorded by the kind of loop that it needs, and only its code is imported."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, tempfile, gradwatch, torch
model = torch.nn.Linear(2, 2)
optimizer = {optimizer}
with tempfile.TemporaryDirectory() as folder, gradwatch.attach(model, optimizer, folder + "/run"):
    print("gradwatch.recording.rare_loops" in sys.modules)
"""


@pytest.mark.parametrize(
    ("optimizer", "is_rare"),
    [("torch.optim.SGD(model.parameters(), lr=0.1)", False), ("None", True)],
    ids=["an optimizer", "none"],
)
def test_the_loop_of_an_optimizer_needs_no_code_of_the_others(optimizer, is_rare):
    program = PROGRAM.format(optimizer=optimizer)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(is_rare)]
