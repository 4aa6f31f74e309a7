"""Causes and remedies are worded in one place, the diagnosis: all else says what was measured."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from gradwatch.detect import detectors_for
from gradwatch.record import CLIP_FAULTS, Kind, RankStats, UpdateStats, WeightStats, merged
from gradwatch.testing import PARAMETERS, replaced, steady, stream

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gradwatch"

CAUSE = re.compile(
    r"\b(?:because|due to|caused|came from|came with|therefore|leads? to|led to|makes? (?:its|the|each|them)|so that"
    r"|explains?|in effect|too (?:high|low|large|small|long|short)|until it|rounded away|from here on)\b|, so\b"
)
TO_DO = (
    "add|call|change|check|choose|clamp|clip|compare|correct|create|decrease|drop|find|fix|freeze|give|go back|guard"
    "|increase|keep|leave|lengthen|look|lower|mask|move|multiply|normalise|pass|put|raise|record|reduce|remove|repeat"
    "|replace|scale|set|shorten|train|try|use|warm"
)
BEGINS = r"(?:^|[.;:,(] |\b(?:and|or|then) )"
ABOUT = (
    "backward|batch|beta|clip|data|device|dtype|eps|gradient|initial|layer|learning rate|loss scale|model|norm"
    "|optimizer|parameter|precision|run|schedule|settings|step|threshold|unscale|warm-?up|weight"
)


def imperative(verbs=TO_DO, about=""):
    return re.compile(rf"{BEGINS}(?:{verbs})\b(?! is| are| was| of\b)[^.;]*{about}", re.IGNORECASE)


IMPERATIVE = imperative()
REMEDY = imperative(about=rf"\b(?:{ABOUT})")
OTHER_REMEDY = imperative(TO_DO.replace("|clip", ""), rf"\b(?:{ABOUT})")  # than clipping

SAYS_WHAT_IS_MEASURED = [
    "detect",
    "views",
    "export",
    "plugins",
    "sinks",
    "recording",
    "cli",
    "script/doctor.py",
    "analysis/summary",
]
HELP_OF_OPTIONS = PACKAGE / "cli/signatures.py"  # says what an option does, in the imperative
GIVES_A_THRESHOLD = ["analysis/recommend", "script/tune.py"]  # which may say why that one, and that one may clip there


def sentences(path):
    """The strings of a module but for docstrings and the texts of exceptions, with {} where a value stands."""
    tree = ast.parse(path.read_text())
    no_message = [node for node in ast.walk(tree) if isinstance(node, ast.Expr | ast.Raise)]
    left_out = {id(part) for node in no_message for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def modules(places):
    found = [path for place in places for path in [PACKAGE / place]]
    return sorted(p for path in found for p in (path.rglob("*.py") if path.is_dir() else [path]))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", modules(SAYS_WHAT_IS_MEASURED), ids=name_of)
def test_a_module_that_shows_a_training_phrases_no_cause_and_no_remedy(path):
    remedy = re.compile("(?!)") if path == HELP_OF_OPTIONS else REMEDY
    assert [text for text in sentences(path) if CAUSE.search(text) or remedy.search(text)] == []


DASHBOARDS = PACKAGE.parent / "dashboards"
LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`')
COMMENT = re.compile(r"^\s*(?://|/\*|\*).*$|\s//\s.*$", re.MULTILINE)
OF_THE_PAGE = {  # what a reader can do there
    "find runs",
    "move through the steps shown",
    "Found no gradwatch.db in {} or below. Record a run there, and reload:",
    "gradwatch explain {}",
}


def page_sentences(path):
    """The strings of a module in JavaScript, with {} where a value stands."""
    found = LITERAL.findall(COMMENT.sub("", path.read_text()))
    return [re.sub(r"\$\{[^}]*\}", "{}", text[1:-1]) for text in found if " " in text]


def test_the_page_phrases_no_cause_and_no_remedy():
    told = {text for path in DASHBOARDS.rglob("*.js") for text in page_sentences(path)}
    assert len(told) > 100
    assert told >= OF_THE_PAGE
    assert [text for text in told - OF_THE_PAGE if CAUSE.search(text) or REMEDY.search(text)] == []


def percentages(path):
    """Lines that format a percentage by themselves: f"{x:.0%}" rounds halves to even, and `text.share` away from 0."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FormattedValue) and "%" in ast.unparse(node.format_spec or ast.Constant("")):
            yield node.lineno
        if isinstance(node, ast.JoinedStr):
            pairs = zip(node.values, node.values[1:], strict=False)
            yield from (
                node.lineno
                for value, after in pairs
                if isinstance(value, ast.FormattedValue)
                and value.format_spec is not None
                and isinstance(after, ast.Constant)
                and str(after.value).startswith("%")
            )


@pytest.mark.parametrize(
    ("code", "lines"),
    [('f"{x:.0%}"', [1]), ('f"{100 * x:.1f}% of"', [1]), ('f"{share(x)} of {y:.1f}"', []), ("1 % 2", [])],
)
def test_a_percentage_is_seen(tmp_path, code, lines):
    (tmp_path / "module.py").write_text(code)
    assert list(percentages(tmp_path / "module.py")) == lines


@pytest.mark.parametrize("path", [p for p in modules(["."]) if p.name != "text.py"], ids=name_of)
def test_every_percentage_is_formatted_by_one_function(path):
    assert list(percentages(path)) == []


OF_CODE_OR_DATA = {  # not read by people, or as code that they copy
    "analysis/recommend/advice.py",
    "clip/agc.py",
    "recording/meta.py",
}


def own_digits(path):
    """Lines that format a number to some digits by themselves: f"{x:.3g}" writes 1.25e+20, every view 1.25e20."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "float"]
    read_again = {id(call.args[0]) for call in calls}
    for text in ast.walk(tree):
        if not isinstance(text, ast.JoinedStr) or id(text) in read_again:
            continue
        before = ["", *(str(part.value) if isinstance(part, ast.Constant) else "" for part in text.values)]
        for part, left in zip(text.values, before, strict=False):
            spec = ast.unparse(part.format_spec) if isinstance(part, ast.FormattedValue) and part.format_spec else ""
            if re.search(r"[eEgG]['\"]$", spec) and not left.endswith("="):
                yield part.lineno


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ('f"{x:.3g} of"', [1]),
        ('f"{x:>9.4g}"', [1]),
        ('f"{x:g}"', [1]),
        ('f"{x:.2e}"', [1]),
        ('f"{number(x)} of {y:.1f}"', []),
        ('f"clip(max_norm={x:g})"', []),
        ('float(f"{x:.3g}")', []),
    ],
)
def test_a_number_with_digits_of_its_own_is_seen(tmp_path, code, lines):
    (tmp_path / "module.py").write_text(code)
    assert list(own_digits(tmp_path / "module.py")) == lines


FOR_PEOPLE = [path for path in modules(["."]) if name_of(path) not in {"text.py", *OF_CODE_OR_DATA}]


@pytest.mark.parametrize("path", FOR_PEOPLE, ids=name_of)
def test_every_number_is_formatted_by_one_function(path):
    assert list(own_digits(path)) == []


SPACED_PERCENTAGE = re.compile(r"(?<=[\d}]) %(?![\w(])")  # not the operator


def test_a_percentage_has_no_space_before_its_sign():
    code = [*modules(["."]), *(ROOT / "benchmarks").rglob("*.py")]
    printed = [text for path in code if " %" in path.read_text() for text in sentences(path)]
    page = [text for path in DASHBOARDS.rglob("*.js") for text in page_sentences(path)]
    docs = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    assert [text for text in (*printed, *page, *docs) if SPACED_PERCENTAGE.search(text)] == []
    assert [bool(SPACED_PERCENTAGE.search(text)) for text in ("5 % of", "{} %", "5% of", "{}%")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("path", modules(GIVES_A_THRESHOLD), ids=name_of)
def test_a_module_that_gives_a_threshold_phrases_no_other_remedy(path):
    assert [text for text in sentences(path) if OTHER_REMEDY.search(text)] == []


def changed(records, **values):
    return [
        dataclasses.replace(record, **{name: v(i) if callable(v) else v for name, v in values.items()})
        for i, record in enumerate(records)
    ]


def with_ranks(records, *, differing, apart):
    def ranks(at):
        norms = np.array([1.0, 1.1, 0.9, 9.0 if at >= apart else 1.0], np.float32)
        zeros = np.zeros(4, np.float32)
        return RankStats(
            norm=norms,
            nonfinite=zeros,
            differing=zeros + [0, 0, 0, float(differing)],
            differs_in=zeros + 1,
            before_reduction=zeros + 1,
        )

    return changed(records, ranks=ranks)


def with_updates(norms, *, rms=lambda at: 1.0, rate=0.1):
    """A calm stream of gradients with these updates."""
    ones = np.ones(2, np.float32)
    records = stream(steady(len(norms), spread=0.05))
    return changed(
        records,
        updates=lambda at: UpdateStats(
            update_norm=ones * norms[at],
            weight_norm=ones,
            rms_ratio=np.array([rms(at), 1.0], np.float32),
            second_moment_norm=ones,
        ),
        update_norm=lambda at: norms[at],
        weight_norm=1.4,
        learning_rates=(rate,),
    )


def with_held_spike(at=250):
    gradients = replaced(steady(400, spread=0.02), {at: 100.0})
    held = [0.9 ** (i - at) * 10 if i >= at else 0.0 for i in range(400)]
    return changed(with_updates([0.1 * (1 + h) for h in held]), total_norm=lambda i: gradients[i])


def bfloat16():
    parameters = tuple(dataclasses.replace(info, dtype="bfloat16") for info in PARAMETERS)
    ones = np.ones(2, np.float32)
    few = WeightStats(weight_norm=ones, update_norm=ones, moved=ones * 1e-4)
    return changed(stream(steady(20), parameters=parameters), weights=few)


INF, NAN = float("inf"), float("nan")
SICK = replaced(steady(300), {250: NAN})
GROWING = [*steady(400), *(1.3**i for i in range(60)), *[NAN] * 5]
FAR = WeightStats(weight_norm=np.ones(2, np.float32), update_norm=np.full(2, 3.0, np.float32))
LOST_WEIGHTS = WeightStats(weight_norm=np.full(2, NAN, np.float32), update_norm=np.ones(2, np.float32))

CORPUS = {
    "spike": stream(replaced(steady(400), {300: 60.0}), losses=[1.0] * 400, max_norm=1.0),
    "spike with the loss": stream(replaced(steady(400), {300: 60.0}), losses=replaced([1.0] * 400, {300: 9.0})),
    "explosion": stream(GROWING, losses=GROWING),
    "explosion, clipped": stream(GROWING, max_norm=1.0),
    "drift": stream([*steady(800), *(n * 1.003**i for i, n in enumerate(steady(800)))]),
    "large updates": changed(stream(steady(400)), weights=lambda i: FAR if i % 10 == 0 else None),
    "fading": stream([*steady(400), *(0.9**i for i in range(300))], losses=[1.0] * 700),
    "fallen at once": stream([*steady(400), *steady(100, level=1e-6)], losses=[1.0] * 500),
    "dead": stream([1.0] * 300, shares=(1.0, 0.0)),
    "no gradient": stream([0.0] * 300),
    "NaN in backward": stream(SICK, losses=[1.0] * 300),
    "NaN with the loss": stream(SICK, losses=replaced([1.0] * 300, {250: NAN})),
    "NaN with the weights": changed(stream(SICK), weights=lambda i: LOST_WEIGHTS if i == 250 else None),
    "NaN in the loss": stream([1.0] * 300, losses=replaced([1.0] * 300, {250: NAN})),
    "NaN for long": stream([*steady(200), *[NAN] * 60, *steady(100)], losses=[1.0] * 360),
    "NaN, skipped": changed(stream(SICK), skipped=lambda i: i == 250),
    "overflow": changed(
        stream([1.0] * 300), total_norm=lambda i: INF if i == 250 else 1.0, clip_coef=lambda i: float(i != 250)
    ),
    "eps": stream([1e-12] * 300),
    "clipped always": stream([1.0] * 700, max_norm=0.1),
    "clipped by value": changed(stream([1.0] * 700), clip_value=0.1, cut_entries=3),
    "clipped never": stream([1.0] * 1200, max_norm=100.0),
    "skipped": changed(stream([1.0] * 60), skipped=lambda i: 20 < i < 40, loss_scale=1024.0),
    "ranks differ": with_ranks(stream(steady(500)), differing=1, apart=500),
    "a rank leaves": with_ranks(stream(steady(800)), differing=0, apart=300),
    "update spike": with_updates(replaced(steady(300, level=1e-3), {200: 0.1})),
    "second moment": with_updates(steady(300, level=1e-3), rms=lambda at: 9.0 if at == 200 else 1.0),
    "held spike": with_held_spike(),
    "no rate": with_updates([0.0] * 150, rate=0.0),
    "updates of zero": with_updates([0.0] * 150),
    "low precision": bfloat16(),
} | {
    f"clip fault {fault}": changed(stream([2.0] * 3, max_norm=1.0), clip_fault=fault, loss_scale=1024.0)
    for fault in CLIP_FAULTS
}
RAISED_BY_NO_DETECTOR = {"resumed"}


def raised(records):
    every = [detectors_for("AdamW", {"eps": 1e-8}), detectors_for("SGD", {"lr": 0.1})]
    return [e for detectors in every for d in detectors for e in merged(e for r in records for e in d.update(r))]


def test_no_event_of_any_kind_phrases_a_cause_or_a_remedy():
    events = [event for records in CORPUS.values() for event in raised(records)]
    assert {event.kind for event in events} == {*get_args(Kind)} - RAISED_BY_NO_DETECTOR
    told = {event.message for event in events}
    assert [text for text in told if CAUSE.search(text) or IMPERATIVE.search(text)] == []
