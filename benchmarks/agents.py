"""Whether the calls of an agent name the cause of a planted fault, and how much of its context they take.

    python benchmarks/agents.py > benchmarks/agents.txt

Each fault among the held-out cases of benchmarks/diagnosis, on which no rule was tuned, is trained and recorded. Then
the calls are made that an agent would make, by the functions behind `gradwatch mcp`: `list_runs` over all runs, and
`check_run`, `read_events` and `read_report` of each. The cause is named if the first finding of warning or worse in the
answer of `check_run` has a code that is right for the case and comes with a cause and a remedy. "info": there is no
such finding, and one of severity info has the code, as benchmarks/diagnosis counts it.

Tokens are an estimate: characters / 3, rounded up. Tokenizers make a token of about four characters of English and of
fewer in JSON.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import io
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch

from gradwatch.plugins.answers import CHARACTERS_PER_TOKEN, MOST_TOKENS, Answers, tokens


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent / "diagnosis"))
    lab = importlib.import_module("lab")
    torch.set_num_threads(1)
    cases = [case for case in importlib.import_module("held_out").case.all if case.code is not None]
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            place = lab.Place(Path(name) / case.name, seed=zlib.crc32(case.name.encode()))
            torch.manual_seed(place.seed)
            with contextlib.redirect_stdout(io.StringIO()):
                case.train(place, True)
        runs = {case.name: found(Path(name), case.name) for case in cases}
        answers = Answers(Path(name))
        listed = answers.list_runs(most=len(cases))
        print(f"{len(cases)} planted faults; {CHARACTERS_PER_TOKEN} characters count as a token")
        print(f"list_runs of all: {tokens(listed)} tokens\n")
        print(f"{'fault':58}  {'code':28}  {'named':>5}  {'check':>5}  {'events':>6}  {'report':>6}")
        rows = [row(answers, case, runs[case.name]) for case in cases]
    told = collections.Counter(one for one, _ in rows)
    most = max([tokens(listed), *(size for _, sizes in rows for size in sizes)])
    print(f"\ncause named by check_run: {told['yes']} of {len(rows)}, and {told['info']} as information")
    print(f"largest answer: {most} tokens (limit {MOST_TOKENS})")


def found(folder: Path, case: str) -> str:
    """The name of the run of a case, wherever its loop recorded it."""
    (store,) = (folder / case).rglob("gradwatch.db")
    return store.parent.relative_to(folder).as_posix()


def row(answers: Answers, case: Any, run: str) -> tuple[str, list[int]]:
    """Print what the answers of one run hold; whether the cause is named, and the tokens of each answer."""
    each = [ask(answers.check_run, run), ask(answers.read_events, run), ask(answers.read_report, run)]
    named = told_by(json.loads(each[0]).get("findings", []), {case.code, *case.also})
    sizes = [tokens(text) for text in each]
    print(f"{case.name[:58]:58}  {case.code:28}  {named:>5}  {sizes[0]:5}  {sizes[1]:6}  {sizes[2]:6}")
    return named, sizes


def told_by(findings: list[dict[str, Any]], right: set[str]) -> str:
    """Whether findings name the cause: yes, info or no."""
    alarming = [f for f in findings if f["severity"] != "info"]
    first = next(iter(alarming or [f for f in findings if f["code"] in right]), None)
    if first is None or first["code"] not in right or not (first["cause"] and first["remedy"]):
        return "no"
    return "yes" if alarming else "info"


def ask(tool: Any, run: str) -> str:
    """The answer, or as JSON the error, which an agent gets in its place."""
    from gradwatch.errors import GradwatchError

    try:
        return str(tool(run))
    except GradwatchError as error:
        return json.dumps({"error": str(error)})


if __name__ == "__main__":
    main()
