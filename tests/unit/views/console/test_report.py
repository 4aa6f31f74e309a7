"""`gradwatch report` in a terminal: at every width, in plain ASCII, of strange runs, with hostile names."""

import math
from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.analysis.statistics.ranks import NO_PARTS, NoiseSummary
from gradwatch.record import ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.console.compare import comparison
from gradwatch.views.console.events import event_list
from gradwatch.views.console.recommend import recommendation
from gradwatch.views.console.report import noise_lines, report, report_lines
from gradwatch.views.console.screen import Ink, Screen

HOSTILE = (
    "a[red]b[/red]",
    "new\nline",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "שלום",
    "😀.w",
)
VIEWS = {
    "report": lambda run, screen: report(run.summary(), screen),
    "events": lambda run, screen: event_list(run.events(), screen),
    "recommendation": lambda run, screen: recommendation(run.recommend(), screen),
    "policy": lambda run, screen: recommendation(replace(run.recommend(), clip="AutoClip(10)"), screen),
    "comparison": lambda run, screen: comparison([run.summary()] * 3, screen),
}


@pytest.mark.parametrize("ascii_only", [False, True], ids=["unicode", "ascii"])
@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("name", VIEWS)
def test_every_line_fits(run, drawn, name, width, ascii_only):
    lines = drawn(VIEWS[name](run, Screen(width=width, ink=Ink(ascii=ascii_only, colour=not ascii_only))))
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    cut = [line for line in lines if "…" in line and not line.startswith("layer ")]  # a title has a name at its end
    assert all(line.index("…") < 36 for line in cut), "a name may be cut, a number never"
    assert not ascii_only or text.isascii()


def test_only_an_interrupt_is_said_beside_the_steps(tmp_path):
    said = {}
    for reason in ("exit", "exception KeyboardInterrupt"):
        writer = StoreWriter(tmp_path / reason)
        writer.begin_attempt({}, {"0": ("SGD", {})})
        writer.append(stream(steady(50)))
        writer.end_attempt(reason)
        said[reason] = [line.plain for line in report_lines(Run(tmp_path / reason).summary(), Screen(width=140))][1]
    assert said["exception KeyboardInterrupt"].endswith(" s · interrupted (Ctrl-C)")
    assert said["exit"].endswith("· 4.9 s")


def test_the_report_says_what_matters(run, drawn):
    text = "\n".join(drawn(report(run.summary(), Screen(width=100)), 100))
    told = " ".join(text.split())  # a long headline goes on below
    headline = "the gradient is NaN or infinite at step 700, first in"
    assert f"{run.summary().verdict.upper()} {headline} encoder.layers.29.self_attention.weight" in told
    assert "max 60  at step 400" in text
    assert "NaN or infinite at 1 of 900 steps" in text
    assert "by norm at 1.1" in text
    assert "18 more; `gradwatch report --layers 30` shows all" in text
    assert "next: " in text
    assert "×" in text


def test_hostile_names_are_shown_as_text(tmp_path, drawn):
    infos = tuple(ParameterInfo(name=name, shape=(2, 2)) for name in HOSTILE)
    norms = replaced(steady(400), {300: 99.0, 350: math.nan})
    run = Run(write_run(tmp_path, stream(norms, shares=[1.0] * len(infos), parameters=infos)))
    lines = drawn(report(run.summary(), Screen(width=140)), 140)
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "a[red]b[/red]" in text
    assert "new\\nline" in text
    assert "\\x1b[31mred" in text
    assert max(len(line) for line in lines) <= 140
    assert "\x1b" not in "\n".join(drawn(event_list(run.events(), Screen(width=100)), 100))


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param([1.0], [0.5], id="one step"),
        pytest.param([0.0] * 5, None, id="zeros"),
        pytest.param([math.nan] * 5, [math.nan] * 5, id="all NaN"),
        pytest.param([math.inf, 1e300, 1e-300], [math.inf, 1.0, -1.0], id="extremes"),
        pytest.param([5e-324] * 3, [5e-324] * 3, id="subnormal"),
        pytest.param([1.0] * 3, [-1.0, -2.0, 0.0], id="negative losses"),
    ],
)
@pytest.mark.parametrize("name", VIEWS)
def test_degenerate_runs_are_drawn(tmp_path, drawn, name, norms, losses):
    run = Run(write_run(tmp_path, stream(norms, losses=losses)))
    lines = drawn(VIEWS[name](run, Screen()), 80)
    assert lines != [""]
    assert max(map(len, lines)) <= 80


def test_a_loss_that_was_not_logged_says_how_to(tmp_path, drawn):
    run = Run(write_run(tmp_path, stream([1.0])))
    assert "loss  not logged; watch.log(loss=loss) adds it" in drawn(report(run.summary(), Screen()), 80)


@pytest.mark.parametrize(
    ("optimizer_class", "shown"),
    [("AdamW", "AdamW lr 0.1"), ("NoOptimizer", "no optimizer"), ("ByHand", "no optimizer"), ("", "optimizer lr 0.1")],
)
def test_an_optimizer_is_named_and_a_class_of_gradwatch_never(tmp_path, drawn, optimizer_class, shown):
    run = Run(write_run(tmp_path, stream([1.0]), optimizer_class))
    text = "\n".join(drawn(report(run.summary(), Screen()), 80))
    assert f" · {shown} · " in text
    assert "ByHand" not in text
    assert "NoOptimizer" not in text


def test_a_learning_rate_that_a_schedule_ends_near_0_stands_beside_the_highest(tmp_path, drawn):
    records = [
        replace(record, learning_rates=(rate,))
        for record, rate in zip(stream([1.0] * 3), (1e-3, 0.01, 4e-8), strict=True)
    ]
    run = Run(write_run(tmp_path, records, "AdamW"))
    assert " · AdamW lr 4e-8 (highest 0.01) · " in "\n".join(drawn(report(run.summary(), Screen(width=140)), 140))


def test_what_a_run_lacks_is_said(run, drawn):
    summary = replace(
        run.summary(),
        optimizers=("0", "critic"),
        dropped_steps=1,
        skipped_steps=1,
        damaged_rows=2,
        running=True,
        attempts=3,
    )
    text = "\n".join(drawn(report(summary, Screen(width=140)), 140))
    for said in (
        "optimizer 0 (of 2: 0, critic); --optimizer shows another",
        "1 step dropped: too late to be recorded",
        "1 step skipped (no update)",
        "2 rows of the store damaged and left out",
        "still running",
        "3 attempts",
    ):
        assert said in text


def test_a_run_that_was_resumed_often_names_the_last_three_times(tmp_path, drawn):
    attempts = [stream([1.0] * 2, attempt=attempt, first_step=2 * attempt) for attempt in range(6)]
    run = Run(write_run(tmp_path, [record for records in attempts for record in records]))
    text = " ".join(line.strip() for line in drawn(report(run.summary(), Screen()), 80))
    assert "resumed at step 6; resumed at step 8; resumed at step 10; and 2 times before" in text


@pytest.mark.parametrize(
    ("clipping", "shown"),
    [
        ({"kind": "value", "cut_fraction": 0.25}, "by value at 1.1  clipped_fraction 17.3%  entries cut 25%"),
        ({"kind": "policy", "policy": "AGC(0.01)"}, "clipping  by AGC(0.01)  clipped_fraction"),
        ({"threshold_min": 0.5}, "by norm at 1.1 (0.5 to 1.1)"),
        ({"kind": None}, "clipping  none"),
    ],
)
def test_each_kind_of_clipping_has_its_line(tmp_path, drawn, clipping, shown):
    summary = Run(write_run(tmp_path, stream(steady(800), max_norm=1.1))).summary()
    changed = replace(summary, clipping=replace(summary.clipping, **clipping))
    assert shown in "\n".join(drawn(report(changed, Screen(width=100)), 100))


def test_sections_may_be_left_out(run):
    everything = report_lines(run.summary(), Screen())
    least = report_lines(run.summary(), Screen(), layers=0, strip_rows=0, groups=0)
    assert len(least) < len(everything)
    text = "\n".join(line.plain for line in least)
    assert "layer x step" not in text
    assert "layers  30 more; `gradwatch report --layers 30` shows all" in text
    assert "2 more kinds; `gradwatch events` lists every event" in text
    assert "next: " in text


def test_a_run_without_layers_says_so(tmp_path, drawn):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([replace(record, layers=None, weights=None) for record in stream([1.0] * 5)])
    writer.end_attempt("closed")
    text = "\n".join(drawn(report(Run(tmp_path).summary(), Screen()), 80))
    assert "layers  not recorded" in text
    assert "layer x step" not in text


def test_the_noise_scale_is_told_where_steps_have_parts(run):
    summary, screen = run.summary(), Screen(width=140)
    assert summary.noise.why == NO_PARTS
    assert noise_lines(summary, screen) == []
    hidden = NoiseSummary(of=None, why="the mean gradient does not stand out from the noise")
    assert "not known: the mean gradient" in noise_lines(replace(summary, noise=hidden), screen)[0].plain
    known = NoiseSummary(of="micro-batch", first=3.0, last=12.0, max=14.0)
    (line,) = noise_lines(replace(summary, noise=known), screen)
    assert line.plain.startswith("noise scale  12 micro-batches at the end, 3 at the start, at most 14")


def test_clipping_by_the_script_itself_is_not_told_as_none(tmp_path):
    write_run(tmp_path, stream(steady(300)))
    assert "clipping  none" in [line.plain for line in report_lines(Run(tmp_path).summary(), Screen())]
    writer = StoreWriter(tmp_path)
    writer.set_meta("changed_steps.0", "300")
    writer.abandon()
    summary = Run(tmp_path).summary()
    assert (summary.clipping.kind, summary.clipping.is_known) == (None, False)
    assert summary.moment == "as the optimizer got them"
    lines = [line.plain for line in report_lines(summary, Screen())]
    assert "clipping  not known: the script changes the gradients without a clip call" in lines


def test_the_first_loss_is_that_of_the_first_step_and_the_last_says_that_it_is_a_median(tmp_path, drawn):
    losses = [2.5, 900.0, *[300.0] * 298, 7.0, 1.0, 2.0]
    run = Run(write_run(tmp_path / "run", stream(steady(303), losses=losses)))
    (line,) = [line for line in drawn(report(run.summary(), Screen())) if line.startswith("loss ")]
    assert line == "loss  first 2.5  last 2 (median of 3)  min 1  at step 301"
    assert run.steps()["loss"].iloc[0] == 2.5
    few = Run(write_run(tmp_path / "few", stream(steady(50), losses=losses[:50])))
    (line,) = [line for line in drawn(report(few.summary(), Screen())) if line.startswith("loss ")]
    assert line == "loss  first 2.5  last 300  min 2.5  at step 0"


def test_losses_of_which_none_is_finite_are_not_called_missing(tmp_path, drawn):
    run = Run(write_run(tmp_path / "run", stream(steady(50), losses=[math.nan] * 50)))
    lines = drawn(report(run.summary(), Screen()), 80)
    assert any(line.startswith("loss  not finite at 50 steps") for line in lines)
    assert not any("not logged" in line for line in lines)
