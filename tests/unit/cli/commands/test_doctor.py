"""`gradwatch doctor`: its exit codes. What it finds is tested beside real scripts (tests/end_to_end/test_doctor.py)."""

import json

import pytest

from gradwatch.script.doctor import Examination, Observation


@pytest.mark.parametrize(
    ("mark", "failed", "code"), [("fine", False, 0), ("note", False, 0), ("problem", False, 3), ("problem", True, 1)]
)
def test_the_exit_code_tells_what_was_found(tmp_path, command, monkeypatch, mark, failed, code):
    (tmp_path / "train.py").write_text("")
    asked = []

    def examine(program, steps):
        asked.append((program.argv, steps))
        return Examination("train.py", (Observation(mark, "steps", "what was seen"),), failed)

    monkeypatch.setattr("gradwatch.cli.commands.doctor.examine", examine)
    done = command("doctor", "--steps", "7", tmp_path / "train.py", "--lr", "1")
    assert done.code == code
    assert "what was seen" in done.out
    assert asked == [((str(tmp_path / "train.py"), "--lr", "1"), 7)]


def test_a_script_that_is_not_there_is_said(command):
    assert "(script-not-found)" in command("doctor", "no.py").err


def test_json_is_alone_on_standard_output(tmp_path, command, monkeypatch):
    (tmp_path / "train.py").write_text("")

    def examine(program, steps):
        print("what the script prints")
        return Examination("train.py", (Observation("problem", "steps", "what was seen"),), False)

    monkeypatch.setattr("gradwatch.cli.commands.doctor.examine", examine)
    done = command("doctor", "--json", tmp_path / "train.py")
    assert done.code == 3
    assert json.loads(done.out) == {
        "script": "train.py",
        "failed": False,
        "has_problem": True,
        "observations": [{"mark": "problem", "about": "steps", "text": "what was seen"}],
    }
    assert "what the script prints" in done.err
