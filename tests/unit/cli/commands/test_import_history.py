"""`gradwatch import`: a table becomes a run, and what is wrong with the arguments is said."""

import pytest

from gradwatch import Run
from gradwatch.testing import steady


@pytest.fixture
def table(tmp_path):
    rows = "\n".join(f"{step},{norm},{1 / (step + 1)}" for step, norm in enumerate(steady(400)))
    (tmp_path / "history.csv").write_text(f"step,grad_norm,loss\n{rows}\n")
    return tmp_path / "history.csv"


def test_a_table_becomes_a_run(table, command, tmp_path):
    done = command("import", table, tmp_path / "run", "--optimizer", "AdamW", "--moment", "before clipping")
    assert done.code == 0
    assert done.out.startswith("400 steps of ")
    run = Run(tmp_path / "run")
    assert run.steps()["total_norm"].tolist() == pytest.approx(steady(400))
    assert run.optimizers == {"0": "AdamW"}
    assert run.meta()["moment"] == "before clipping"


def test_notes_have_lines_of_their_own(table, command, tmp_path):
    lines = command("import", table, tmp_path / "run").out.splitlines()
    assert all(line.startswith("note: ") for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{table}"], "only one path was given"),
        (
            ["{table}", "run", "--moment", "later"],
            "--moment is 'later'; expected 'before clipping' or 'after clipping'",
        ),
        (["{table}", "run", "--norm", "nothing"], "has no 'nothing'"),
        (["nowhere.csv", "run"], "nowhere.csv"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(table, command, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = command("import", *(argument.format(table=table) for argument in arguments))
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert not (tmp_path / "run").exists()
