"""Values of the command line that are taken without typer's conversion."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gradwatch.cli import group
from gradwatch.cli.plain_values import take_as_they_are
from gradwatch.testing import steady, stream, write_run

VALUES = [None, (), "text", "", "-1", "3", "inf", ["text"], ("1", "2"), Path("text"), 7, True, b"text", __file__]


def outcome(parameter, context, value):
    """The value as the command gets it, or the error that the user reads."""
    try:
        taken = parameter.process_value(context, value)
    except typer.BadParameter as error:
        return type(error), error.format_message()
    except Exception as error:  # an older typer's, of a value that no command line gives
        return type(error), str(error)
    return type(taken), taken


def test_every_value_becomes_what_typer_makes_of_it():
    plain, typers = group(), group()
    compared = 0
    for name, command in plain.commands.items():
        context = typer.Context(typers.commands[name], info_name=name)
        take_as_they_are(command.params)
        for parameter, own in zip(command.params, typers.commands[name].params, strict=True):
            for value in (*VALUES, own.default):
                assert outcome(parameter, context, value) == outcome(own, context, value), (name, own.name, value)
                compared += 1
    assert compared > 1000


def test_a_path_that_cannot_be_read_is_refused_before_the_command_starts(command, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    done = command("events", tmp_path)
    assert done.code == 2
    assert "is not readable" in done.err


def program(*words):
    return (
        f"import sys; sys.argv = {['gradwatch', *map(str, words)]!r}; from gradwatch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({'pydantic', 'pyarrow', 'torch'} & {name for name, one in sys.modules.items() if one}))"
    )


@pytest.mark.parametrize("name", ["report", "recommend"])
def test_a_command_that_reads_a_run_imports_no_pydantic(tmp_path, name):
    run = write_run(tmp_path / "run", stream(steady(64)))
    done = subprocess.run([sys.executable, "-c", program(name, run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_number_is_still_checked(command, tmp_path):
    done = command("report", tmp_path, "--layers", "-1")
    assert done.code == 2
    assert "--layers" in done.err
