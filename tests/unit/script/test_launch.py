"""What `gradwatch run` prepares, and what it shows of a script that fails. Whole scripts: end_to_end/test_run.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradwatch.errors import RunInUse, ScriptNotFound
from gradwatch.script.launch import Program, become_main, code_of, folded, prepare, show, why_nothing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with a script and a package in it."""
    (tmp_path / "train.py").write_text("x = 1\n")
    (tmp_path / "package").mkdir()
    for name in ("__init__", "__main__", "train"):
        (tmp_path / "package" / f"{name}.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "package"]:
        del sys.modules[name]


@pytest.fixture
def interpreter(monkeypatch):
    """`sys` as it was, after a program became the main module."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)


# --------------------------------------------------------------------------------------- prepare


def test_a_script_keeps_its_arguments_and_gets_an_absolute_path(folder):
    program, run = prepare(["train.py", "--lr", "3"], None, module=False)
    assert program == Program(folder / "train.py", ("train.py", "--lr", "3"))
    assert run.parent == Path("runs")
    assert run.name.endswith("-train")


def test_a_module_has_its_spec_and_the_path_of_its_file(folder):
    program, run = prepare(["package.train", "3"], None, module=True)
    assert program.spec.name == "package.train"
    assert program.argv == (str(folder / "package" / "train.py"), "3")
    assert run.name.endswith("-package.train")


def test_a_package_is_run_by_its_main_module(folder):
    program, _ = prepare(["package"], None, module=True)
    assert program.spec.name == "package.__main__"


def test_a_run_that_was_named_is_taken(folder):
    assert prepare(["train.py"], Path("runs/x"), module=False)[1] == Path("runs/x")


def test_finding_a_module_leaves_the_path_of_modules_as_it_was(folder):
    before = list(sys.path)
    prepare(["package.train"], None, module=True)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("nowhere.py", False),
        ("package", False),
        ("", False),
        ("no.such.module", True),
        ("not a name", True),
        ("", True),
    ],
)
def test_what_is_not_there_is_said(folder, name, module):
    with pytest.raises(ScriptNotFound, match="script-not-found"):
        prepare([name], None, module=module)


def test_a_file_in_the_place_of_the_run(folder):
    with pytest.raises(RunInUse, match="which is a file"):
        prepare(["train.py"], Path("train.py"), module=False)


# ------------------------------------------------------------------------------------ become_main


def test_a_script_finds_itself_as_main(folder, interpreter):
    program, _ = prepare(["train.py", "3"], None, module=False)
    main = become_main(program)
    assert sys.modules["__main__"] is main
    assert (main.__name__, main.__file__) == ("__main__", str(folder / "train.py"))
    assert (main.__spec__, main.__package__) == (None, None)
    assert sys.argv == ["train.py", "3"]
    assert sys.path[0] == str(folder)


def test_a_module_finds_its_package(folder, interpreter):
    program, _ = prepare(["package.train"], None, module=True)
    main = become_main(program)
    assert main.__package__ == "package"
    assert main.__spec__ is program.spec
    assert sys.path[0] == str(folder)


def test_the_code_of_a_program_knows_its_file_and_none_of_our_future_imports(folder, interpreter):
    (folder / "train.py").write_text("def f(x: Undefined = 1): pass\n")
    program, _ = prepare(["train.py"], None, module=False)
    code = code_of(program)
    assert code.co_filename == str(folder / "train.py")
    with pytest.raises(NameError):  # annotations are evaluated as in the script alone
        exec(code, {})


# ------------------------------------------------------------------------------------------- show


def failing(folder: Path, text: str) -> tuple[Program, BaseException]:
    (folder / "train.py").write_text(text)
    program, _ = prepare(["train.py"], None, module=False)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        exec(code_of(program), {})
    return program, caught.value


def test_the_traceback_of_a_script_begins_in_the_script(folder, interpreter, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # torch.distributed names the rank, if a test began it
    program, error = failing(folder, "def f():\n    raise ValueError('mine')\nf()\n")
    show(error, program)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n  File ")
    assert "test_launch.py" not in shown
    assert shown.count("File ") == 2
    assert shown.endswith("ValueError: mine\n")
    assert sys.last_type is ValueError


def test_frames_of_gradwatch_within_the_scripts_are_left_out(folder, interpreter, capsys):
    """As where torch raises within a hook of ours."""
    program, error = failing(
        folder,
        "from gradwatch.text import count\n"
        "class Number:\n    def __format__(self, spec):\n        raise ValueError('mine')\n"
        "count(Number(), 'step')\n",
    )
    show(error, program)
    shown = capsys.readouterr().err
    assert "text.py" not in shown
    assert shown.count("File ") == 2


def test_the_cause_of_an_exception_is_shown_too(folder, interpreter, capsys):
    program, error = failing(
        folder, "try:\n    1 / 0\nexcept ZeroDivisionError as first:\n    raise KeyError('chained') from first\n"
    )
    show(error, program)
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in shown
    assert "direct cause" in shown


def test_a_syntax_error_is_shown_as_python_shows_it(folder, interpreter, capsys):
    (folder / "train.py").write_text("x = (1,\n")
    program, _ = prepare(["train.py"], None, module=False)
    with pytest.raises(SyntaxError) as caught:
        code_of(program)
    show(caught.value, program)
    assert "SyntaxError: '(' was never closed" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ why_nothing


@dataclass
class Seen:
    """What a discovery knows at the end."""

    failed: bool = False
    steps: int = 0
    backwards: int = 0
    optimizers_seen: int = 0


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "the script did not import torch"),
        ([Seen()], "the script imported torch and never called backward"),
        ([Seen(backwards=3)], "the script has no optimizer and clips no gradient"),
        ([Seen(backwards=3, optimizers_seen=1)], "no optimizer made a step"),
        ([Seen(backwards=3, optimizers_seen=1, failed=True)], "the run could not be written"),
        ([Seen(backwards=3, optimizers_seen=1, steps=5)], "the run was removed, or could not be written"),
    ],
)
def test_the_reason_for_an_empty_run(found, why, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert why_nothing(found) == why


def test_a_recording_that_could_not_start_is_not_blamed_on_the_script():
    import torch  # noqa: F401

    assert why_nothing([]) == "gradwatch could not start, as the message above says"


@pytest.mark.parametrize("width", [40, 60, 79])
def test_a_last_line_fits_its_terminal_and_loses_nothing(width):
    for line in (
        "gradwatch: recorded 60 steps of 2 optimizers; gradwatch report runs/a-very-long-name/of-a-run-in-a-sweep",
        "gradwatch: nothing was recorded: " + "a reason " * 20,
        "gradwatch: recorded 60 steps; gradwatch report runs/" + "x" * 300,
    ):
        parts = folded(line.strip(), width).splitlines()
        assert all(len(part) <= width for part in parts)
        assert "".join("".join(parts).split()) == "".join(line.split())
    assert folded("x" * width, width) == "x" * width
