"""How a test looks at the page: what a person would see, and the pixels of its canvases."""

import importlib.resources
import re
import time

from playwright.sync_api import expect

from .conftest import PATIENCE

BAD, ABSENT = (214, 0, 108), (236, 239, 242)  # colours.js, on light
AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
TOP = (253, 231, 37)  # the last colour of viridis
LEFT = 150 + 56  # where the heat map begins: page.css, charts.js


class Look:
    """The page, in TensorBoard's frame or by itself."""

    def __init__(self, browser, width=1400, height=1300, **context):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.faults = []
        self.requests = []
        self._waiting = set()  # requests that have no answer yet
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("response", self._response)
        self.page.on("request", self._request)
        self.page.on("requestfinished", lambda request: self._waiting.discard(request))
        self.page.on("requestfailed", lambda request: self._waiting.discard(request))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))

    def _console(self, message):
        # what TensorBoard itself does not find is not ours; what we don't is in _response
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def _request(self, request):
        self.requests.append(request.url)
        self._waiting.add(request)

    def _response(self, response):
        if response.status >= 400 and "gradwatch" in response.url:
            self.faults.append(f"{response.status} {response.url}")

    def open_tab(self, url):
        self.page.goto(f"{url}#gradwatch")
        self.frame = self.page.frame_locator("iframe[src*=gradwatch]")
        return self

    def open_page(self, url, state=""):
        """Open the page by itself; ``state`` is what its address says of it."""
        self.page.goto("about:blank")
        self.page.goto(f"{url}#gradwatch&{state}" if state else url)
        self.frame = self.page
        return self

    def open_file(self, file):
        self.page.goto(f"file://{file}")
        self.frame = self.page
        return self

    def close(self):
        self.context.close()

    def shown_run(self):
        """Wait until a run is drawn."""
        expect(self.frame.locator("canvas.heat")).to_be_visible()
        expect(self.frame.locator(".span")).to_contain_text("step")
        self.settle()

    def settle(self):
        """Wait until what was asked for after a move is drawn, and the address tells it.

        The page asks 90 ms after a move, and changes its address within 200 ms. That is of its own clock: on a busy
        machine it may be late, but its timers go off in their order.
        """
        asked, until = None, time.monotonic() + PATIENCE / 1000
        while asked != len(self.requests) or self._waiting:
            assert time.monotonic() < until, [request.url for request in self._waiting]
            asked = len(self.requests)
            self.page.evaluate("() => new Promise((done) => setTimeout(done, 250))")

    def range(self):
        text = self.frame.locator(".span").inner_text()
        found = [int(part.replace(",", "")) for part in re.findall(r"\d[\d,]*", text.partition(";")[0])]
        return found[0], found[-1]

    def x_of(self, step):
        """Of a step on the canvas of the layers, in CSS pixels."""
        first, last = self.range()
        width = self.frame.locator("canvas.heat").bounding_box()["width"] - LEFT - 14
        return LEFT + (step - first + 0.5) / (last - first + 1) * width

    def colours(self, x, row, rows):
        """Those of the layers' canvas around a place in the middle of a row, as a set of triples."""
        return {
            tuple(pixel)
            for pixel in self.frame.locator("canvas.heat").evaluate(
                """(canvas, [x, row, rows]) => {
                    const unit = devicePixelRatio, tall = (canvas.height / unit - 12) / rows;
                    const [left, top] = [(x - 2) * unit, (row + 0.5) * tall * unit];
                    const data = canvas.getContext("2d").getImageData(left, top, 5, 1).data;
                    return [0, 1, 2, 3, 4].map(i => [data[4 * i], data[4 * i + 1], data[4 * i + 2]]);
                }""",
                [x, row, rows],
            )
        }

    def line_pixels(self, chart, x, part):
        """How many pixels around x, in the upper part of a chart, are neither background nor grid."""
        return self.frame.locator(f"section[aria-label='{chart}'] .plot canvas").evaluate(
            """(canvas, [x, part]) => {
                const left = (x - 150 - 2) * devicePixelRatio;
                const data = canvas.getContext("2d").getImageData(left, 0, 5, canvas.height * part).data;
                let count = 0;
                for (let i = 0; i < data.length; i += 4)
                    if (data[i + 3] > 60 && data[i] < 120 && data[i + 2] > 120) count++;
                return count;
            }""",
            [x, part],
        )

    def point(self, chart, step, y=20):
        """Point at a step on a chart and return what its readout tells."""
        over = self.frame.locator(f"section[aria-label='{chart}'] .u-over")
        box = over.bounding_box()
        first, last = self.range()
        self.page.mouse.move(box["x"] + (step - first + 0.5) / (last - first + 1) * box["width"], box["y"] + y)
        return self.frame.locator(f"section[aria-label='{chart}'] .readout").inner_text()

    def chart_colours(self, chart, step, top, bottom):
        """The colours of a chart in a strip of 3 pixels around a step, from one part of its height to another."""
        first, last = self.range()
        return {
            tuple(pixel)
            for pixel in self.frame.locator(f"section[aria-label='{chart}'] .plot canvas").evaluate(
                """(canvas, [part, top, bottom, unit]) => {
                    const left = 56 * unit, width = canvas.width - (56 + 14) * unit;
                    const height = Math.round(canvas.height * (bottom - top));
                    const x = Math.round(left + part * width) - 1;
                    const data = canvas.getContext("2d").getImageData(x, canvas.height * top, 3, height).data;
                    return Array.from({ length: 3 * height }, (_, i) => [...data.slice(4 * i, 4 * i + 4)]);
                }""",
                [(step - first + 0.5) / (last - first + 1), top, bottom, 1],
            )
        }

    def drag(self, first, last):
        """Zoom by a drag over the chart of the total norm."""
        box = self.frame.locator("section[aria-label='total norm'] .u-over").bounding_box()
        begin, end = self.range()

        def x(step):
            return box["x"] + (step - begin) / (end - begin) * box["width"]

        self.page.mouse.move(max(box["x"] + 1, x(first)), box["y"] + 20)
        self.page.mouse.down()
        self.page.mouse.move(x((first + last) / 2), box["y"] + 30)
        self.page.mouse.move(min(box["x"] + box["width"] - 1, x(last)), box["y"] + 30)
        self.page.mouse.up()
        self.settle()

    def serious_findings(self, axe):
        """What axe-core finds of the page that is serious."""
        frame = next(
            (f for f in self.page.frames if "gradwatch" in f.url and f != self.page.main_frame), self.page.main_frame
        )
        frame.evaluate(axe)
        found = frame.evaluate("() => axe.run(document)")["violations"]
        return [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
