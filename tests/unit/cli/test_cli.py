"""The command line as a whole: errors, terminals, pipes, help; what a process of its own shows."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradwatch
from gradwatch.cli import main
from gradwatch.record import ParameterInfo
from gradwatch.testing import replaced, steady, stream, write_run


def in_a_process(*arguments, **environment):
    command = [sys.executable, "-m", "gradwatch", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "100"} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with what is no run, or no longer."""
    folder = tmp_path_factory.mktemp("odd")
    write_run(folder / "runs" / "good", stream(steady(10)))
    (folder / "file.csv").write_text("step,norm\n")
    (folder / "empty").mkdir()
    write_run(folder / "no-steps", [])
    whole = write_run(folder / "cut", stream(steady(2000)))
    data = (whole / "gradwatch.db").read_bytes()
    (whole / "gradwatch.db").write_bytes(data[: len(data) // 2])
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "slug"),
    [
        (["report", "nowhere"], 1, "run-not-found"),
        (["report", "empty"], 1, "run-not-found"),
        (["report", "file.csv"], 1, "not-a-run"),
        (["report", "cut"], 1, "store-damaged"),
        (["report", "no-steps"], 1, "empty-run"),
        (["events", "nowhere"], 1, "run-not-found"),
        (["report", "runs/good", "--optimizer", "9"], 1, "bad-argument"),
        (["recommend", "runs/good", "--optimizer", "9"], 1, "bad-argument"),
        (["run", "--run", "", "train.py"], 1, "bad-argument"),
        (["run", "--run=", "train.py", "--run", "x"], 1, "bad-argument"),
        (["tune", "--run", "", "train.py"], 1, "bad-argument"),
        (["run", "--run", ".", "train.py", "--run", ""], 1, "script-not-found"),
        (["report", "runs/good", "--layers", "many"], 2, "Invalid value"),
        (["report", "runs/good", "--layers", "-1"], 2, "Invalid value"),
        (["explode"], 2, "No such command"),
        ([], None, "Usage"),  # 2; with click before 8.2 it is 0
    ],
)
def test_bad_input_is_one_clear_error(odd, command, monkeypatch, arguments, code, slug):
    monkeypatch.chdir(odd)
    done = command(*arguments)
    assert done.code == code or (code is None and done.code in (0, 2))
    assert slug in done.err + done.out
    if code == 1:
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert done.out == ""


def test_no_run_anywhere_is_said_and_nothing_is_made(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("report")
    assert done.code == 1
    assert "There is no run under 'runs'" in done.err
    assert "record one: `gradwatch run SCRIPT`" in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_newest_run_is_meant_where_none_is_named(runs, command, monkeypatch):
    os.utime(runs / "good" / "gradwatch.db", (1, 1))
    monkeypatch.chdir(runs.parent)
    assert json.loads(command("report", "--json").out)["run"] == "bad"


def test_a_folder_of_several_runs_names_them(runs, command):
    done = command("report", runs)
    assert done.code == 1
    assert done.err.startswith(f"error: {str(runs)!r} holds 2 runs; expected one of {runs / 'bad'}, {runs / 'good'}.")


def test_the_only_run_below_a_folder_is_read_and_said(tmp_path, command):
    write_run(tmp_path / "out" / "gradwatch", stream(steady(10)))
    done = command("report", tmp_path / "out", "--json")
    assert json.loads(done.out)["run"] == "gradwatch"
    assert done.err == f"gradwatch: the run below {tmp_path / 'out'} is {tmp_path / 'out' / 'gradwatch'}\n"


def test_no_colour_means_plain_ascii(runs, command, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("report", "events", "recommend", "compare"):
        assert command(name, runs / "bad").out.isascii(), name


def test_a_terminal_without_utf8_gets_ascii(runs):
    done = in_a_process("report", runs / "bad", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_hostile_name_can_not_write_to_the_terminal(tmp_path, command):
    infos = [ParameterInfo(name="\x1b]0;owned\x07\x1b[31mé", shape=(2, 2)), ParameterInfo(name="b", shape=(2,))]
    write_run(tmp_path, stream(replaced(steady(400), {300: math.nan}), parameters=infos, shares=(1.0, 0.0)))
    for name in ("report", "events", "check", "recommend"):
        done = command(name, tmp_path)
        assert "\x1b" not in done.out
        assert done.code in (0, 3)
    assert json.loads(command("report", tmp_path, "--json").out)["layers"][0]["name"] == infos[0].name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", ["report {}", "report {} --json", "explain", "--help", "report --help"])
@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "closed")])
def test_output_that_cannot_be_written_is_one_clear_error(runs, arguments, to, why):
    command = f"{sys.executable} -m gradwatch {arguments.format(runs / 'bad')} {to}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: The output can't be written: ")
    assert line.endswith("(cannot-print)")
    assert why in line


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor in the shell")
def test_a_script_runs_with_closed_output_too(tmp_path):
    (tmp_path / "train.py").write_text("import sys\nprint('x')\nsys.exit(7 if sys.stdout is None else 8)\n")
    command = f"{sys.executable} -m gradwatch run train.py >&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, timeout=120).returncode == 7


def test_a_closed_pipe_is_no_error(runs):
    command = f"{sys.executable} -m gradwatch report {runs / 'bad'} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", [40, 60, 79])
def test_no_line_is_longer_than_a_narrow_terminal(tmp_path, command, monkeypatch, width):
    names = [f"model.encoder.layers.{i}.self_attention.{kind}.weight" for i in range(6) for kind in ("output", "value")]
    infos = [ParameterInfo(name=name, shape=(3, 3)) for name in names]
    norms = [*steady(700, spread=0.3), 10.0, 300.0, 1e6, math.inf, math.nan]
    losses = [1 / (1 + step) for step in range(len(norms))]
    write_run(tmp_path / "bad", stream(norms, parameters=infos, shares=[0.2] * 12, losses=losses, max_norm=1.1))
    write_run(tmp_path / "good", stream(steady(700), parameters=infos, shares=[0.2] * 12))
    monkeypatch.setenv("COLUMNS", str(width))
    for arguments in (["report", "bad"], ["events", "bad"], ["compare", "bad", "good"], ["recommend", "good"]):
        done = command(arguments[0], *(tmp_path / name for name in arguments[1:]))
        assert done.code == 0
        assert [line for line in done.out.splitlines() if len(line) > width] == [], arguments


def test_layers_keep_their_numbers_in_a_narrow_terminal(tmp_path, command, monkeypatch):
    infos = [ParameterInfo(name=f"model.encoder.layers.{i}.attention.weight", shape=(3, 3)) for i in range(12)]
    write_run(tmp_path, stream(steady(100), parameters=infos, shares=[0.2] * 12))
    monkeypatch.setenv("COLUMNS", "50")
    out = command("report", tmp_path).out
    assert {f"{i}." for i in range(12)} <= {line[: line.find(".") + 1] for line in out.splitlines()}
    monkeypatch.setenv("COLUMNS", "109")
    assert "all in model.encoder.layers\n" in command("report", tmp_path).out


def test_the_installed_command_is_the_same():
    script = shutil.which("gradwatch", path=str(Path(sys.executable).parent))
    assert script is not None
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"gradwatch {gradwatch.__version__}\n"


def test_a_current_folder_that_no_longer_exists_is_said(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["gradwatch", "ls"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "The current folder no longer exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report", "recommend"])
def test_reading_a_run_imports_neither_torch_nor_pyarrow(runs, name):
    code = (
        "import atexit, sys; from gradwatch.cli import main;"
        "atexit.register(lambda: print([sys.modules.get(name) for name in ('torch', 'pyarrow')]));"
        "main()"
    )
    command = [sys.executable, "-c", code, name, str(runs / "good")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[None, None]"


def test_an_error_is_one_line_for_programs_and_folded_on_a_terminal(command, monkeypatch):
    whole = command("report", "no-such-run").err
    assert whole.count("\n") == 1
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    folded = command("report", "no-such-run").err
    assert max(map(len, folded.splitlines())) <= 40
    assert folded.split() == whole.split()
