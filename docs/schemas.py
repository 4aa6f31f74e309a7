"""Makes docs/schemas/*.schema.json: a JSON schema for the `--json` of every command that reads.

Types come from the dataclasses that the commands print, so a schema cannot name a field that is not there.
A later version may add keys; none is taken away. That is why objects allow further keys.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.diagnosis.finding import FINDING_KEYS, Quantity
from gradwatch.analysis.diagnosis.pages import Page
from gradwatch.analysis.differences import Difference
from gradwatch.analysis.history import ResumePoint
from gradwatch.analysis.listing import RunRow
from gradwatch.analysis.recommend import ChangedAdvice, Recommendation
from gradwatch.analysis.replays.result import Origin, Replay
from gradwatch.analysis.summary import RunSummary
from gradwatch.capture.listing import CaptureInfo
from gradwatch.record import EVENT_KEYS, Event
from gradwatch.script.doctor import Observation
from gradwatch.script.tune import Tuning
from gradwatch.views.json import _CONTRACT_OF_A_RECOMMENDATION, _MORE_OF_A_RECOMMENDATION, _MORE_OF_A_REPORT

FOLDER = Path(__file__).parent / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
PLAIN = {bool: "boolean", int: "integer", str: "string", Path: "string", type(None): "null"}
Schema = dict[str, Any]


def of(kind: Any) -> Schema:
    """The schema of a value of a type."""
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if kind is float:
        return NUMBER
    if dataclasses.is_dataclass(kind):
        return fields(kind)
    if typing.get_origin(kind) is not None:
        return _of_parts(typing.get_origin(kind), typing.get_args(kind))
    assert kind in (Any, object), kind
    return {}


def _of_parts(origin: Any, arguments: tuple[Any, ...]) -> Schema:
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [of(one) for one in arguments]}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return array(of(arguments[0]))
        return array({"anyOf": [of(one) for one in arguments]}, len(arguments))
    assert issubclass(origin, Mapping), origin
    return {"type": "object", "additionalProperties": of(arguments[1])}


def array(items: Schema, length: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if length is None else {"minItems": length, "maxItems": length})


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def thing(properties: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object: these keys are always there, the optional ones sometimes."""
    return {"type": "object", "required": list(properties), "properties": {**properties, **(optional or {})}}


def fields(kind: type, names: typing.Iterable[str] | None = None, **given: Schema) -> Schema:
    """The object of a dataclass with some of its fields (all if None); ``given`` replaces or adds a field."""
    hints = typing.get_type_hints(kind)
    wanted = list(hints) if names is None else list(names)
    return thing({name: given.get(name) or of(hints[name]) for name in wanted} | given)


QUANTITY = thing({"value": {"type": ["number", "string", "null"]}, "unit": of(str)})
assert {field.name for field in dataclasses.fields(Quantity)} == set(QUANTITY["properties"])
EVENT = fields(Event, EVENT_KEYS)
FINDING = fields(Finding, FINDING_KEYS, evidence={"type": "object", "additionalProperties": QUANTITY})
ORIGIN = nullable(
    fields(Origin, [n for n in typing.get_type_hints(Origin) if n != "class_name"], **{"class": of(str | None)})
)
REPLAY = fields(Replay, origin=ORIGIN)
TOLD_REPLAY = fields(Replay, origin=ORIGIN, headline=of(str), answers=array(array(of(str), 2)))
CONTRACT_OF_A_REPORT = (
    *("run", "steps", "verdict", "total_norm", "clipping", "nonfinite_steps", "skipped_steps"),
    *("events", "findings", "layers"),
)
REPORT = fields(
    RunSummary,
    (*CONTRACT_OF_A_REPORT, *_MORE_OF_A_REPORT, "ranks", "norm_owners", "loss", "weights", "updates", "noise"),
    events=array(EVENT),
    findings=array(FINDING),
    replays=array(TOLD_REPLAY),
    seams=array(of(ResumePoint)),
)
DIFFERENCE = fields(Difference, **{"from": of(str), "bit_equal": of(bool)})
ADVICE = fields(
    Recommendation,
    [n for n in (*_CONTRACT_OF_A_RECOMMENDATION, *_MORE_OF_A_RECOMMENDATION) if n not in ("policy", "apply")],
    policy=of(Literal["norm", "value", "adaptive", "none"]),
    apply=of(Mapping[str, str]),
    first=array(of(str)),
    phases=of(typing.get_type_hints(Recommendation)["phases"]),
    what_if=of(typing.get_type_hints(Recommendation)["what_if"]),
)
CHECK = thing(
    {"run": of(str), "healthy": of(bool), "verdict": of(str | None), "faults": array(of(str))}
    | {"findings": array(FINDING), "path": of(str)}
)
PAGE = fields(Page, code=of(str))

SCHEMAS: dict[str, tuple[str, Schema]] = {
    "report": ("gradwatch report RUN --json", REPORT),
    "events": ("gradwatch events RUN --json", array(EVENT)),
    "check": (
        "gradwatch check RUN... --json: every run in `runs`; the keys of the only run also beside it",
        thing({"healthy": of(bool), "runs": array(CHECK)}, CHECK["properties"]),
    ),
    "ls": ("gradwatch ls FOLDER --json", array(fields(RunRow, age=of(float)))),
    "compare": (
        "gradwatch compare RUN RUN... --json: every run but the first has `differs`",
        array(thing(REPORT["properties"], {"differs": array(DIFFERENCE)})),
    ),
    "recommend": (
        "gradwatch recommend RUN... --json: `after` with --if; `spread` and `runs` with several runs",
        thing(ADVICE["properties"], {"after": of(ChangedAdvice), "spread": of(float | None), "runs": array(ADVICE)}),
    ),
    "explain": (
        "gradwatch explain CODE --json, and gradwatch explain --json",
        {"anyOf": [PAGE, array(thing({"code": of(str), "title": of(str)}))]},
    ),
    "captures": ("gradwatch captures RUN --json", array(fields(CaptureInfo))),
    "replay": ("gradwatch replay RUN --json", REPLAY),
    "doctor": (
        "gradwatch doctor SCRIPT --json",
        thing({"script": of(str), "failed": of(bool), "has_problem": of(bool), "observations": array(of(Observation))}),
    ),
    "tune": ("gradwatch tune SCRIPT --json", fields(Tuning)),
    "config": (
        "gradwatch config --json",
        thing(
            {"file": of(str | None)}
            | {"settings": array(thing({name: of(str) for name in ("command", "option", "value", "from")}))}
        ),
    ),
}


def rendered() -> dict[str, str]:
    """The text of each schema's file, by the command's name."""
    return {
        name: json.dumps({"$schema": DRAFT, "title": title, **schema}, indent=1) + "\n"
        for name, (title, schema) in SCHEMAS.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / f"{name}.schema.json").write_text(text)
