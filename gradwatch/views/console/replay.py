"""`gradwatch replay`: the result of replaying a captured step."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from gradwatch.analysis.replays.result import Replay
from gradwatch.analysis.replays.wording import answers, headline
from gradwatch.text import number
from gradwatch.views.console.screen import Screen

_LABEL = 15


def replay_view(replay: Replay, screen: Screen, shown: int = 1, of: int = 1) -> Group:
    """Every answer, each with its question; ``shown`` of ``of`` captures."""
    return Group(*replay_lines(replay, screen, shown, of))


def replay_lines(replay: Replay, screen: Screen, shown: int = 1, of: int = 1) -> list[Text]:
    """The answers line by line."""
    lead = f"{screen.ink.pick('●', '*')} STEP {replay.step}  "
    told = f"{_WHY.get(replay.why, replay.why)}, total norm {number(replay.captured_norm)}"
    lines = screen.wrap(lead, told, "bold red", "bold red")
    facts = [replay.run, f"optimizer {replay.optimizer}", f"capture {shown} of {of}" if of > 1 else ""]
    lines += screen.wrap("  ", screen.ink.pick(" · ", " | ").join(fact for fact in facts if fact), style="dim")
    lines.append(Text())
    for answer in answers(replay):
        style = "" if answer.is_known else "yellow"
        is_code = not answer.label and answer.text.startswith("> ")
        lines += screen.wrap(f"{answer.label:<{_LABEL}}", answer.text, "bold", "cyan" if is_code else style)
    return lines


_WHY = {"nonfinite": "the gradient is not finite", "spike": "spike", "explosion": "explosion"}


def replayed_lines(replays: Sequence[Replay], screen: Screen, most: int = 4) -> list[Text]:
    """One line for each replayed step of a run; nothing if none was replayed."""
    if not replays:
        return []
    lines = [Text("replayed", "bold")]
    for replay in replays[:most]:
        lines += screen.wrap(f"  step {replay.step:<9}", headline(replay))
    if len(replays) > most:
        lines.append(Text(f"  {len(replays) - most} more; `gradwatch report --json` has every one", "dim"))
    return lines
