"""Draw the pictures of the README from a real run: `make pictures`.

The demonstration is trained, and what the commands print of it is exported by rich as SVG.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from gradwatch import Run
from gradwatch.demo import train
from gradwatch.report.console import ConsoleReport

HERE = Path(__file__).parent
WIDTH = 100


def draw(name: str, command: str, *views: RenderableType) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=WIDTH, record=True, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text(f"$ {command}\n", "bold"))
        for view in views:
            console.print(view)
        svg = console.export_svg(title="gradwatch", theme=MONOKAI, unique_id=name)
    # rich refers to fonts on a server; a picture of ours loads nothing from anywhere
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / f"{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", svg))
    print(HERE / f"{name}.svg")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    view = ConsoleReport(width=WIDTH)
    if not (folder / "demo").exists():
        train(folder / "demo")
    plain = Run(folder / "demo")
    advice = plain.recommend()
    if not (folder / "demo-clipped").exists():
        train(folder / "demo-clipped", max_norm=advice.max_norm)
    clipped = Run(folder / "demo-clipped")
    draw("report", "gradwatch report runs/demo", view.report(plain.summary()))
    draw("recommend", "gradwatch recommend runs/demo", view.recommendation(advice))
    compared = view.comparison([plain.summary(), clipped.summary()])
    draw("compare", "gradwatch compare runs/demo runs/demo-clipped", compared)


if __name__ == "__main__":
    main()
