// The recommendation, and what any threshold would have done.
import { LOGARITHMIC } from "./charts.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";
import { faded, ink } from "./colours.js";
import { h, number, share } from "./text.js";

export class Threshold {
  /** `moved` is told the threshold under the slider. */
  constructor(page, moved) {
    this.page = page;
    this.moved = moved;
    this.plot = h("div", { class: "curve", role: "img", "aria-label": "share of steps clipped and mean coefficient by threshold" });
    this.slider = h("input", { type: "range", min: 0, max: 0, id: "threshold", oninput: () => this.#move() });
    this.told = h("output", { htmlFor: "threshold" });
    this.words = h("div", { class: "advice" });
    this.try = h("div", { class: "try" }, h("label", { htmlFor: "threshold" }, "A threshold of"), this.slider, this.told);
    this.element = h("section", { class: "panel", "aria-label": "Recommendation" }, h("h2", {}, "Which threshold"), h("div", { class: "two" }, this.words, h("div", {}, this.plot, this.try)));
  }

  show(advice) {
    this.advice = advice;
    const refused = advice.refused !== null;
    const head = refused
      ? h("p", { class: "headline" }, h("strong", {}, "No recommendation. "), advice.refused)
      : h(
          "p",
          { class: "headline" },
          ...(advice.clip ? [h("strong", {}, advice.clip), " or "] : []),
          h("strong", {}, `max_norm ${number(advice.max_norm)}`),
          ` · anything from ${number(advice.low)} to ${number(advice.high)} is supported · confidence ${advice.confidence}`,
        );
    const lines = (items) => h("ul", {}, items.map((item) => h("li", {}, item)));
    this.words.replaceChildren(
      head,
      ...(advice.first.length ? [h("h3", {}, "First"), lines(advice.first)] : []),
      ...(advice.reasons.length ? [h("h3", {}, "Why"), lines(advice.reasons)] : []),
      ...Object.values(advice.apply).map((line) => h("pre", { tabIndex: 0 }, h("code", {}, line))),
    );
    this.try.hidden = this.plot.hidden = !advice.curve.length;
    if (!advice.curve.length) return;
    this.slider.max = advice.curve.length - 1;
    const begin = advice.curve.findIndex((point) => point.label === "recommended");
    this.slider.value = begin >= 0 ? begin : Math.max(0, advice.curve.findIndex((point) => point.label === "in force"));
    this.#draw();
    this.#move(false);
  }

  get #point() {
    return this.advice.curve[Number(this.slider.value)];
  }

  #move(tell = true) {
    const point = this.#point;
    const label = point.label ? ` (${point.label})` : "";
    this.told.textContent =
      `${number(point.threshold)}${label} would have clipped ${share(point.clipped_fraction)} of the steps that decide,` +
      ` mean clip_coef ${number(point.mean_clip_coef)}, at the worst norm ${number(point.worst_clip_coef)}`;
    this.slider.setAttribute("aria-valuetext", this.told.textContent);
    this.chart?.redraw(false);
    if (tell) this.moved(point.threshold);
  }

  #draw() {
    const { curve, low, high } = this.advice;
    const colours = ink(this.page.theme);
    const data = [curve.map((p) => Math.log10(p.threshold)), curve.map((p) => p.clipped_fraction), curve.map((p) => p.mean_clip_coef)];
    const axis = { stroke: colours.faint, grid: { stroke: colours.grid }, ticks: { stroke: colours.grid }, font: "11px system-ui" };
    this.chart?.destroy();
    this.chart = new uPlot(
      {
        width: Math.max(240, this.plot.clientWidth || 420),
        height: 170,
        legend: { show: true, live: false },
        padding: [8, 26, 0, 0],
        cursor: { show: false },
        scales: { x: { time: false }, y: { range: () => [0, 1] } },
        axes: [
          { ...axis, size: 28, ...LOGARITHMIC },
          { ...axis, size: 52, values: (u, at) => at.map((value) => share(value)) },
        ],
        series: [
          { label: "threshold" },
          { label: "clipped_fraction", stroke: colours.warning, width: 2, points: { show: false } },
          { label: "mean clip_coef", stroke: colours.text, width: 2, dash: [6, 4], points: { show: false } },
        ],
        hooks: {
          drawClear: [(u) => low !== null && this.#band(u, low, high, faded(colours.line, 0.25))],
          draw: [(u) => this.#upright(u, this.#point.threshold, colours.chosen)],
        },
      },
      data,
      this.plot,
    );
  }

  #band(u, low, high, colour) {
    const [begin, end] = [low, high].map((end) => u.valToPos(Math.log10(end), "x", true));
    u.ctx.fillStyle = colour;
    const [left, right] = [Math.max(u.bbox.left, begin), Math.min(u.bbox.left + u.bbox.width, end)];
    u.ctx.fillRect(left, u.bbox.top, Math.max(2, right - left), u.bbox.height);
  }

  #upright(u, threshold, colour) {
    const x = u.valToPos(Math.log10(threshold), "x", true);
    u.ctx.save();
    u.ctx.strokeStyle = colour;
    u.ctx.lineWidth = 2 * devicePixelRatio;
    u.ctx.beginPath();
    u.ctx.moveTo(x, u.bbox.top);
    u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
    u.ctx.stroke();
    u.ctx.restore();
  }

  redraw() {
    if (this.advice?.curve.length) this.#draw();
  }
}
