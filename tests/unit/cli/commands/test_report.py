"""`gradwatch report`: the terminal, the JSON contract and the page."""

import json
import os
import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.cli.commands.report import write_html
from gradwatch.record import ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run


def test_it_tells_the_story(runs, command):
    done = command("report", runs / "bad")
    assert (done.code, done.err) == (0, "")
    assert "CRITICAL  the training diverged from step 70" in done.out
    assert "`gradwatch explain diverged`" in " ".join(done.out.split())
    assert "layer x step" in done.out


def test_layers_are_as_many_as_are_asked_for(runs, command):
    assert "1 more; `gradwatch report --layers 2` shows all" in command("report", runs / "bad", "--layers", 1).out
    assert "more;" not in command("report", runs / "bad").out


def test_the_json_is_the_contract(runs, command):
    found = json.loads(command("report", runs / "bad", "--json").out)
    keys = ["run", "steps", "verdict", "total_norm", "clipping", "nonfinite_steps", "skipped_steps"]
    keys += ["events", "findings", "layers"]
    assert list(found)[: len(keys)] == keys
    assert (found["run"], found["steps"], found["verdict"]) == ("bad", 705, "critical")
    assert list(found["total_norm"]) == ["median", "p99", "max", "max_step", "last"]
    assert found["total_norm"]["last"] == "NaN"
    assert {"kind", "threshold", "clipped_fraction"} <= set(found["clipping"])
    layer = ["name", "median", "p99", "max", "max_step", "last", "zero_fraction", "nonfinite_steps"]
    assert all(set(layer) <= set(row) for row in found["layers"])
    event = ["step", "kind", "severity", "parameter", "observed", "limit", "message"]
    assert all(list(row)[:7] == event for row in found["events"])
    finding = ["code", "severity", "certainty", "what", "optimizer", "parameters", "rank", "steps", "evidence"]
    finding += ["cause", "remedy", "confirm", "capture"]
    assert [list(row) for row in found["findings"]] == [finding] * len(found["findings"])
    assert found["findings"][0]["code"] == "diverged"
    assert len(found["findings"][0]["steps"]) == 2


def two_optimizers(folder):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"generator": ("Adam", {}), "critic": ("Adam", {})})
    for name, norms in (("generator", steady(300)), ("critic", [*steady(300), float("nan")])):
        records = [replace(record, optimizer=name) for record in stream(norms)]
        writer.add_parameters(name, records[0].layers.parameters)
        from gradwatch.detect import replay

        writer.append(records, replay(records))
    writer.end_attempt("closed")
    return folder


def test_of_several_optimizers_the_worst_is_shown_unless_one_is_named(tmp_path, command):
    two_optimizers(tmp_path)
    assert json.loads(command("report", tmp_path, "--json").out)["optimizer"] == "critic"
    assert "optimizer critic (of 2: generator, critic); --optimizer shows another" in command("report", tmp_path).out
    named = json.loads(command("report", tmp_path, "--json", "--optimizer", "generator").out)
    assert (named["optimizer"], named["steps"]) == ("generator", 300)


def test_the_page_is_one_file_that_loads_nothing(runs, command, tmp_path):
    file = tmp_path / "report.html"
    done = command("report", runs / "bad", "--html", file)
    assert done.code == 0
    assert done.out.startswith(f"wrote {file}, ")
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert "the training diverged from step 70" in page
    assert not [word for word in ('src="', "href=", "@import") if word in page]
    assert not re.search(r"url\((?!#)", page), "url(#...) is a part of the page itself"


def test_the_page_of_several_optimizers_begins_with_the_worst_and_leaves_out_one_without_a_step(tmp_path, command):
    two_optimizers(tmp_path / "run")
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"idle": ("Adam", {})})
    writer.end_attempt("closed")
    assert command("report", tmp_path / "run", "--html", tmp_path / "x.html").code == 0
    page = (tmp_path / "x.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert list(data["runs"]["run"]) == ["critic", "generator"]


def test_a_folder_of_runs_is_one_page(runs, command, tmp_path):
    file = tmp_path / "nightly.html"
    done = command("report", runs, "--html", file)
    assert re.fullmatch(rf"wrote {re.escape(str(file))}, \d\.\d MB: 1 of 2 runs not healthy\n", done.out)
    data = json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])
    assert [run["name"] for run in data["list"]["runs"]] == ["bad", "good"]
    assert list(data["runs"]) == ["bad", "good"]
    refused = command("report", runs, "--html", file, "--optimizer", "0")
    assert (refused.code, "expected one run" in refused.err) == (1, True)


@pytest.mark.parametrize("where", ["no/such/folder/report.html", "."])
def test_a_page_that_can_not_be_written_is_said(runs, command, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    done = command("report", runs / "bad", "--html", where)
    assert done.code == 1
    assert "can't be written" in done.err
    assert "(cannot-export)" in done.err


def test_json_and_a_page_can_not_both_be(runs, command, tmp_path):
    done = command("report", runs / "bad", "--json", "--html", tmp_path / "x.html")
    assert (done.code, done.out) == (1, "")
    assert "(bad-argument)" in done.err


@pytest.mark.slow
def test_the_page_of_150_layers_and_10000_steps_has_less_than_2_megabytes(tmp_path, command):
    names = tuple(ParameterInfo(name=f"blocks.{i}.weight", shape=(64, 64)) for i in range(150))
    rng = np.random.default_rng(0)
    records = stream(steady(10_000), parameters=names, shares=[1.0] * 150)
    noisy = [
        replace(r, layers=replace(r.layers, norm=r.layers.norm * rng.lognormal(0, 0.3, 150).astype(np.float32)))
        for r in records
    ]
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", names)
    writer.append(noisy, [])
    writer.end_attempt("closed")
    assert command("report", tmp_path / "run", "--html", tmp_path / "x.html").code == 0
    assert (tmp_path / "x.html").stat().st_size < 2e6


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_a_run_whose_name_is_not_utf_8_has_a_page(tmp_path):
    run = Run(write_run(tmp_path / os.fsdecode(b"caf\xe9"), stream([1.0] * 30)))
    size = write_html(run, tmp_path / "page.html", None)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page.encode()) == size
    assert r"caf\udce9" in page


def test_svg_holds_the_words_of_the_report_and_loads_nothing(runs, command, tmp_path):
    done = command("report", runs / "bad", "--svg", tmp_path / "a.svg")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"wrote {tmp_path / 'a.svg'}, ")
    text = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    words = "".join(root.itertext()).replace("\xa0", " ")
    assert "CRITICAL  the training diverged from step 70" in words
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}


def test_png_is_the_same_picture(runs, command, tmp_path):
    pytest.importorskip("resvg_py")
    done = command("report", runs / "bad", "--png", tmp_path / "a.png")
    assert (done.code, done.err) == (0, "")
    from PIL import Image

    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > 800
        # The verdict is drawn in red: text there is, and its colours.
        colours = {pixel[:3] for _, pixel in image.convert("RGBA").getcolors(2**24)}
    assert any(red > 180 and green < 110 and blue < 110 for red, green, blue in colours)


def test_png_without_its_package_says_what_to_install(runs, command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    done = command("report", runs / "bad", "--png", tmp_path / "a.png")
    assert (done.code, done.out) == (1, "")
    assert "pip install gradwatch[png]" in done.err
    assert "(unsupported-version)" in done.err
    assert not (tmp_path / "a.png").exists()


def test_png_without_a_font_is_refused(runs, command, tmp_path, monkeypatch):
    resvg_py = pytest.importorskip("resvg_py")
    drawn = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: drawn(**options, skip_system_fonts=True))
    done = command("report", runs / "bad", "--png", tmp_path / "a.png")
    assert done.code == 1
    assert "(cannot-export)" in done.err


@pytest.mark.parametrize("kind", ["--svg", "--png"])
def test_a_picture_that_can_not_be_written_is_said(runs, command, tmp_path, kind):
    if kind == "--png":
        pytest.importorskip("resvg_py")
    done = command("report", runs / "bad", kind, tmp_path / "none" / "a")
    assert done.code == 1
    assert "(cannot-export)" in done.err
    done = command("report", runs / "bad", kind, tmp_path / "a", "--json")
    assert (done.code, list(tmp_path.iterdir())) == (1, [])
    assert f"--json and {kind} were both given" in done.err
