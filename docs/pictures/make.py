"""Draw the pictures of the README from a real run: `make pictures`.

A NaN of `train.py` is kept and replayed, and the demonstration is trained. What the commands print of them is exported
by rich as SVG, and TensorBoard's tab is photographed in Chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from gradwatch import Run
from gradwatch.analysis.replays.result import Replay, read_replay
from gradwatch.capture import capture_folders
from gradwatch.demo import train
from gradwatch.views.console.compare import comparison
from gradwatch.views.console.recommend import recommendation
from gradwatch.views.console.replay import replay_view
from gradwatch.views.console.report import report
from gradwatch.views.console.screen import Screen

HERE = Path(__file__).parent
WIDTH = 100


def draw(name: str, command: str, *views: RenderableType) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=WIDTH, record=True, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text(f"$ {command}\n", "bold"))
        for view in views:
            console.print(view)
        svg = console.export_svg(title="gradwatch", theme=MONOKAI, unique_id=name)
    # rich refers to fonts on a server; gradwatch's pictures load nothing from anywhere
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / f"{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", svg))
    print(HERE / f"{name}.svg")


def replayed(folder: Path) -> Replay:
    """The NaN of `train.py`, kept by one command and replayed by another, as a user would."""
    shutil.copy(HERE / "train.py", folder)
    for command in ("run --run runs/digits --capture train.py", "replay runs/digits train.py"):
        call = [sys.executable, "-m", "gradwatch", *command.split()]
        subprocess.run(call, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = read_replay(capture_folders(folder / "runs" / "digits")[0])
    assert found is not None
    return replace(found, run="runs/digits")


def photograph_tab(folder: Path) -> None:
    """The tab with both runs over one another, zoomed to where the first was lost."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[1] for line in process.stderr or () if (found := re.search(r"at (http://\S+)", line)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1060})
            page.goto(f"{url}#gradwatch")
            tab = page.frame_locator("iframe[src*=gradwatch]")
            tab.get_by_label("draw demo-clipped").check()
            tab.get_by_label("draw demo", exact=True).check()
            tab.locator("button.run").filter(has_text=re.compile("^democritical")).click()
            tab.get_by_label("statistic").select_option("relative")
            for _ in range(2):
                tab.get_by_role("button", name="fewer steps").click()
            page.wait_for_timeout(2000)
            page.screenshot(path=HERE / "tab.png")
            browser.close()
    finally:
        process.terminate()
        process.wait()
    with Image.open(HERE / "tab.png") as image:
        image.convert("RGB").save(HERE / "tab.png", optimize=True)
    print(HERE / "tab.png")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    screen = Screen(width=WIDTH)
    with tempfile.TemporaryDirectory() as own:
        draw("replay", "gradwatch replay runs/digits train.py", replay_view(replayed(Path(own)), screen))
    if not (folder / "demo").exists():
        train(folder / "demo")
    plain = Run(folder / "demo")
    advice = plain.recommend()
    if not (folder / "demo-clipped").exists():
        train(folder / "demo-clipped", max_norm=advice.max_norm)
    clipped = Run(folder / "demo-clipped")
    draw("report", "gradwatch report runs/demo", report(plain.summary(), screen))
    draw("recommend", "gradwatch recommend runs/demo", recommendation(advice, screen))
    compared = comparison([plain.summary(), clipped.summary()], screen)
    draw("compare", "gradwatch compare runs/demo runs/demo-clipped", compared)
    photograph_tab(folder)


if __name__ == "__main__":
    main()
