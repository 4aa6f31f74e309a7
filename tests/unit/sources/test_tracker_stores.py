"""What MLflow and trackio keep, and norms of layers: what is taken, which run is meant, what is refused."""

import contextlib
import json
import math
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import layers, read, write

NORMS = [1.0, 2.0, 3.0, math.inf, math.nan]
LOSSES = [1.0, 0.5, 0.25, 0.125, 0.0625]
RUNS = {"1f" * 16: "first", "2e" * 16: "second"}


def mlruns(folder, runs=RUNS):
    """A folder as MLflow's file store writes it."""
    for key, name in runs.items():
        run = folder / "mlruns" / "362297453890815442" / key
        for metric, values in (("train/loss", LOSSES), ("train/grad_norm", NORMS)):
            file = run / "metrics" / metric
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{1000 + step} {value} {step}\n" for step, value in enumerate(values)))
        (run / "params").mkdir()
        (run / "params" / "optimizer").write_text("AdamW")
        (run / "meta.yaml").write_text(f"artifact_uri: file:///x\nrun_id: {key}\nrun_name: {name}\nstatus: 3\n")
    return folder / "mlruns"


def mlflow_db(folder):
    """A database with the tables of MLflow's tracking server that are read."""
    db = sqlite3.connect(folder / "mlflow.db")
    db.execute("create table runs (run_uuid text primary key, name text, experiment_id integer, status text)")
    db.execute("create table params (key text, value text, run_uuid text)")
    db.execute(
        "create table metrics (key text, value double, timestamp bigint, run_uuid text, step bigint, is_nan boolean)"
    )
    for key, name in RUNS.items():
        db.execute("insert into runs values (?, ?, 1, 'FINISHED')", (key, name))
        db.execute("insert into params values ('optimizer', 'AdamW', ?)", (key,))
        for metric, values in (("train/loss", LOSSES), ("train/grad_norm", NORMS)):
            for step, value in enumerate(values):
                kept = 0.0 if math.isnan(value) else min(value, 1.7976931348623157e308)
                db.execute(
                    "insert into metrics values (?, ?, ?, ?, ?, ?)",
                    (metric, kept, 1000 + step, key, step, math.isnan(value)),
                )
    db.execute("insert into runs values ('empty', 'empty', 1, 'FAILED')")
    db.commit()
    db.close()
    return folder / "mlflow.db"


def trackio_db(folder, with_id=True, encode=str.encode):
    """A database of a project as trackio writes it, today's with ids and bytes, an older one without."""
    own_id = "run_id text, " if with_id else ""
    db = sqlite3.connect(folder / "project.db")
    db.execute(
        f"create table metrics (id integer primary key, {own_id}timestamp text, run_name text, step int, metrics)"
    )
    db.execute(f"create table configs (id integer primary key, {own_id}run_name text, config, created_at text)")
    for key, name in RUNS.items():
        own = (key,) if with_id else ()
        marks = ", ".join("?" * (len(own) + 3))
        config = encode(json.dumps({"optimizer": "AdamW", "_Username": None}))
        db.execute(f"insert into configs values (null, {marks})", (*own, name, config, ""))
        for step, (loss, norm) in enumerate(zip(LOSSES, NORMS, strict=True)):
            shown = norm if math.isfinite(norm) else {"inf": "Infinity", "nan": "NaN"}[str(norm)]
            row = encode(json.dumps({"loss": loss, "train/grad_norm": shown, "image": {"_type": "trackio.image"}}))
            db.execute(f"insert into metrics values (null, {marks}, ?)", (*own, "2026-11-26", name, step, row))
    db.commit()
    db.close()
    return folder / "project.db"


MAKERS = {
    "mlruns": mlruns,
    "mlflow.db": mlflow_db,
    "trackio": trackio_db,
    "older trackio": lambda folder: trackio_db(folder, with_id=False, encode=str),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_the_run_that_is_named_is_taken(tmp_path, maker):
    history = read([maker(tmp_path)], of="second")
    made = write(history, tmp_path / "run")
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_array_equal(steps["total_norm"], NORMS)
    np.testing.assert_array_equal(steps["loss"], LOSSES)
    assert Run(tmp_path / "run").optimizers == {"0": "AdamW"}
    assert "second" in history.source
    assert any("grad_norm' as the gradient norm" in note for note in made.notes)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_of_several_runs_one_has_to_be_named(tmp_path, maker):
    path = maker(tmp_path)
    with pytest.raises(CannotImport, match=r"holds 2 runs; name one with --of: .*first.*second"):
        read([path])
    with pytest.raises(CannotImport, match="holds no run 'third'; name one with --of"):
        read([path], of="third")


def test_the_only_run_needs_no_name_and_may_be_given_itself(tmp_path):
    path = mlruns(tmp_path, {"1f" * 16: "first"})
    for given_path in (path, path / "362297453890815442", path / "362297453890815442" / ("1f" * 16)):
        assert [point.norm for point in read([given_path]).points[:3]] == NORMS[:3]


def test_an_optimizer_that_is_given_counts_more(tmp_path):
    write(read([mlflow_db(tmp_path)], of="first"), tmp_path / "run", "SGD")
    assert Run(tmp_path / "run").optimizers == {"0": "SGD"}


def test_two_runs_of_one_name_are_told_apart_by_their_ids(tmp_path):
    path = mlruns(tmp_path, {"1f" * 16: "same", "2e" * 16: "same"})
    with pytest.raises(CannotImport, match="holds 2 runs 'same'"):
        read([path], of="same")
    assert "2e2e" in read([path], of="2e" * 16).source


@pytest.mark.parametrize("line", ["no numbers here", "1000 x 3", "1000", "1000 0.5 1.5", "1000 0.5 -1"])
def test_a_metric_that_is_no_number_is_refused(tmp_path, line):
    path = mlruns(tmp_path, {"1f" * 16: "first"})
    next(path.rglob("grad_norm")).write_text(line + "\n")
    with pytest.raises(CannotImport):
        write(read([path]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_database_of_something_else_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("create table metrics (x)")
    db.close()
    with pytest.raises(CannotImport, match="neither MLflow's nor trackio's"):
        read([tmp_path / "other.db"])
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(CannotImport, match="can't be read as a database"):
        read([tmp_path / "text.db"])
    with pytest.raises(CannotImport, match="does not exist"):
        read([tmp_path / "none.db"])


def test_a_row_that_is_no_json_is_refused(tmp_path):
    path = trackio_db(tmp_path)
    for broken in ("{", "[1]", "7", None):
        db = sqlite3.connect(path)
        with db:
            db.execute("update metrics set metrics = ? where id = 3", (broken,))
        db.close()
        with pytest.raises(CannotImport):
            read([path], of="first")


def test_of_is_refused_where_there_is_no_tracker(tmp_path):
    (tmp_path / "a.csv").write_text("step,grad_norm\n0,1\n")
    with pytest.raises(CannotImport, match="--of names a run of MLflow or trackio"):
        read([tmp_path / "a.csv"], of="first")


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 20_000), garbage=st.binary(min_size=1, max_size=400))
def test_a_damaged_database_is_read_or_refused(tmp_path_factory, position, garbage):
    folder = tmp_path_factory.mktemp("fuzz")
    path = trackio_db(folder)
    content = bytearray(path.read_bytes())
    at = position % len(content)
    content[at : at + len(garbage)] = garbage
    path.write_bytes(content)
    with contextlib.suppress(CannotImport):  # anything else fails the test
        write(read([path], of="first"), folder / "run")


# ------------------------------------------------------------------------------------------- layers

LAYERS = {"fc.weight": [3.0, 6.0, math.nan], "fc.bias": [4.0, 8.0, 1.0]}


def csv(folder, prefix, *, total=None):
    names = [f"{prefix}{name}" for name in LAYERS]
    rows = [",".join(["step", *([total] if total else []), *names])]
    for step in range(3):
        values = [column[step] for column in LAYERS.values()]
        rows.append(",".join(map(str, [step, *([sum(values)] if total else []), *values])))
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder / "metrics.csv"


@pytest.mark.parametrize("prefix", ["grad_2.0_norm/", "train/grad_norm/", "grad/norm/", "gradients/norm/"])
@pytest.mark.parametrize("lines", [False, True])
def test_norms_of_layers_are_taken_and_give_the_total(tmp_path, prefix, lines):
    file = csv(tmp_path, prefix)
    if lines:
        rows = [
            {"step": step, **{f"{prefix}{name}": column[step] for name, column in LAYERS.items()}} for step in range(3)
        ]
        file = tmp_path / "log.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = write(read([file]), tmp_path / "run")
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(run.steps()["total_norm"], [5.0, 10.0, math.nan])
    frame = run.layers("norm")
    assert frame.columns.tolist() == list(LAYERS)
    np.testing.assert_allclose(frame["fc.weight"], LAYERS["fc.weight"])
    assert any("computed from the norms of 2 layers" in note for note in made.notes)
    assert run.summary().layers[0].nonfinite_steps + run.summary().layers[1].nonfinite_steps == 1


def test_a_total_beside_the_layers_is_taken_as_it_is(tmp_path):
    run = write(read([csv(tmp_path, "grad_2.0_norm/", total="grad_2.0_norm_total")]), tmp_path / "run").run
    np.testing.assert_allclose(Run(run).steps()["total_norm"], [7.0, 14.0, math.nan])
    assert Run(run).layers("norm").shape == (3, 2)


def test_levanters_total_is_not_taken(tmp_path):
    made = write(read([csv(tmp_path, "grad/norm/", total="grad/norm/total")]), tmp_path / "run")
    np.testing.assert_allclose(Run(made.run).steps()["total_norm"], [5.0, 10.0, math.nan])
    assert any("adds the norms of layers" in note for note in made.notes)


def test_levanters_total_alone_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("step,grad/norm/total\n0,1\n1,2\n")
    with pytest.raises(CannotImport, match="adds the norms of layers"):
        read([tmp_path / "a.csv"])


def test_a_layer_that_was_not_logged_is_not_known(tmp_path):
    rows = [{"step": 0, "grad_norm": 5.0, "grad_norm/a": 3.0, "grad_norm/b": 4.0}, {"step": 1, "grad_norm": 5.0}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(write(read([tmp_path / "a.jsonl"]), tmp_path / "run").run)
    assert run.steps()["total_norm"].tolist() == [5.0, 5.0]
    assert run.steps()["nonfinite"].tolist() == [0, 0]
    assert np.isnan(run.layers("norm").loc[1]).all()


def test_single_names_and_totals_are_no_layers():
    assert layers.find(["loss", "grad_norm", "grad_norm/total", "grad_norm/a"]).layers == ()
    assert layers.find(["grad_norm/total", "grad_norm/a", "grad_norm/b"]).layers == ("a", "b")
    assert layers.total([]) is None
    assert layers.total([math.inf, 1.0]) == math.inf
    assert math.isnan(layers.total([math.nan, math.inf]))


# --------------------------------------------------------------------- with the packages themselves


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_what_mlflow_itself_writes_is_read(tmp_path, monkeypatch, kind):
    pytest.importorskip("mlflow")
    if kind == "sqlite":
        pytest.importorskip("alembic")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{tmp_path}/mlflow.db" if kind == "sqlite" else f"{tmp_path.as_uri()}/mlruns"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("x")
    for name in ("first", "second"):
        run = client.create_run(experiment, run_name=name)
        metrics = [Metric("loss", loss, 1000 + step, step) for step, loss in enumerate(LOSSES)]
        metrics += [Metric("train/grad_norm", norm, 1000 + step, step) for step, norm in enumerate(NORMS)]
        client.log_batch(run.info.run_id, metrics=metrics, params=[Param("optimizer", "AdamW")])
    made = write(read([tmp_path / ("mlflow.db" if kind == "sqlite" else "mlruns")], of="second"), tmp_path / "run")
    np.testing.assert_array_equal(Run(made.run).steps()["total_norm"], NORMS)
    assert Run(made.run).optimizers == {"0": "AdamW"}


def test_what_trackio_itself_writes_is_read(tmp_path, trackio_folder):
    import trackio

    run = trackio.init(project="import", name="first", config={"optimizer": "AdamW"}, embed=False, auto_log_gpu=False)
    for step, (loss, norm) in enumerate(zip(LOSSES, NORMS, strict=True)):
        run.log({"loss": loss, "train/grad_norm": norm}, step=step)
    run.finish()
    made = write(read([trackio_folder / "import.db"]), tmp_path / "run")
    np.testing.assert_array_equal(Run(made.run).steps()["total_norm"], NORMS)
    assert Run(made.run).optimizers == {"0": "AdamW"}
