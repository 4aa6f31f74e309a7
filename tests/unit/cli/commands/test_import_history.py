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


def test_a_run_of_a_tracker_is_named_with_of(tmp_path, command):
    for key, name in (("1f", "first"), ("2e", "second")):
        run = tmp_path / "mlruns" / "0" / key
        (run / "metrics").mkdir(parents=True)
        (run / "metrics" / "grad_norm").write_text("1000 0.5 0\n1001 0.7 1\n")
        (run / "meta.yaml").write_text(f"run_name: {name}\n")
    done = command("import", tmp_path / "mlruns", tmp_path / "run")
    assert (done.code, done.out) == (1, "")
    assert "name one with --of: first (1f), second (2e). (cannot-import)" in " ".join(done.err.split())
    done = command("import", tmp_path / "mlruns", tmp_path / "run", "--of", "second")
    assert done.code == 0
    assert done.out.startswith("2 steps of ")
    assert "run second (2e)" in " ".join(done.out.split())
