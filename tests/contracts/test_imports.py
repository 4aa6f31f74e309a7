"""Data flows one way: a module imports only from stages before its own."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gradwatch"
# In the order in which data flows through them.
STAGES = [
    "version",
    "late",
    "errors",
    "text",
    "record",
    "measure",
    "clip",
    "detect",
    "capture",
    "store",
    "distributed",
    "sinks",
    "recording",
    "integrations",
    "sources",
    "analysis",
    "replaying",
    "export",
    "script",
    "views",
    "plugins",
    "demo",
    "testing",
    "cli",
    "__main__",
    "__init__",
]
HOMES = {
    "torch": {"measure", "clip", "capture", "replaying", "distributed", "recording", "integrations", "script", "demo"},
    "sqlite3": {"store", "sources"},
    "pandas": {"analysis", "export", "sources", "views", "cli"},
    "tensorboard": {"sources", "sinks", "plugins"},
    "rich": {"views", "cli"},
    "typer": {"cli"},
}
RECORDED = """
import tempfile, gradwatch, torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
with tempfile.TemporaryDirectory() as folder, gradwatch.attach(model, optimizer, folder + "/run") as watch:
    for step in range(3):
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        watch.log(loss=loss)
"""
MODULES = sorted(PACKAGE.rglob("*.py"))


def stage_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@functools.cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            if node.module == "gradwatch":
                names |= {f"gradwatch.{alias.name}" for alias in node.names}
    return names


def test_modules_are_found():
    assert len(MODULES) >= 30
    assert {stage_of(path) for path in MODULES} == set(STAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    own = stage_of(path)
    used = {name.split(".")[1] for name in imported(path) if name.startswith("gradwatch.")}
    assert {stage for stage in used if STAGES.index(stage) > STAGES.index(own)} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_have_their_homes(path):
    libraries = {name.split(".")[0] for name in imported(path)}
    assert [lib for lib in libraries & set(HOMES) if stage_of(path) not in HOMES[lib]] == []


def test_a_module_against_the_flow_would_be_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from gradwatch.recording.watch import attach\n    import torch\n")
    assert imported(file) == {"gradwatch.recording.watch", "torch"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        pytest.param("import gradwatch", {"torch", "pandas", "numpy", "rich"}, id="the package alone"),
        pytest.param("import gradwatch; gradwatch.Run", {"torch", "rich"}, id="reading needs no torch"),
        pytest.param("import gradwatch.cli", {"torch", "pandas", "numpy"}, id="the command line starts light"),
        pytest.param(
            "import gradwatch.cli.commands.run",
            {"torch", "pandas", "pyarrow", "rich"},
            id="a script is started without pandas",
        ),
        pytest.param(
            "import gradwatch.recording.recorder", {"torch", "pandas", "rich"}, id="records are made without torch"
        ),
        pytest.param(
            "import gradwatch; gradwatch.attach", {"pandas", "rich", "typer", "triton"}, id="recording needs no pandas"
        ),
        pytest.param(
            RECORDED,
            {
                "html",
                "numpy.ma",
                "gradwatch.capture.listing",
                "gradwatch.clip.drop_in",
                "gradwatch.clip.policy",
                "gradwatch.clip.scale",
                "gradwatch.analysis.notebook_page",
                "gradwatch.detect.restoring",
                "gradwatch.distributed.mailbox",
                "gradwatch.measure.operators",
                "gradwatch.recording.capture.recorder",
                "gradwatch.recording.optimizer_probe",
                "gradwatch.recording.process.sink",
                "gradwatch.recording.rare_loops",
                "gradwatch.sinks.event_files",
                "gradwatch.sinks.feed",
                "gradwatch.sinks.targets",
                "gradwatch.sinks.tracker",
                "gradwatch.store.opening",
                "gradwatch.store.reader",
            },
            id="a training in one process holds no code of what its options do not ask for",
        ),
    ],
)
def test_what_is_not_imported(code, absent):
    program = f"import sys\n{code}\nprint(*sorted(m for m in {absent!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_can_be_imported():
    import gradwatch

    assert [name for name in gradwatch.__all__ if getattr(gradwatch, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gradwatch.nothing
