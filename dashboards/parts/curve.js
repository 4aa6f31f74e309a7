// How much each threshold clips, as a chart with the supported range and the threshold under the slider.
/** @import { Advice, Theme } from "../types.d.ts" */
import { axisLook, LOGARITHMIC } from "../chart/options.js";
import { faded, ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { share } from "../draw/text.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const HEIGHT = 170;
const LABEL = "share of steps clipped and mean coefficient by threshold";

/** @typedef {{ advice: Advice, threshold: number, theme: Theme }} Shown */

export class ThresholdCurve {
  /** @type {Shown | null} */ #shown = null;
  /** @type {uPlot | null} */ #plot = null;
  element = h("div", { class: "curve", role: "img", "aria-label": LABEL });

  /** @param {Shown} shown */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    if (!this.#plot || last?.advice !== shown.advice || last.theme !== shown.theme) this.#rebuild(shown);
    else if (last.threshold !== shown.threshold) this.#plot.redraw(false);
  }

  /** @param {Shown} shown */
  #rebuild({ advice: { curve }, theme }) {
    const colours = ink(theme);
    const line = (/** @type {string} */ label, /** @type {string} */ stroke, /** @type {number[]} */ dash) => ({
      label,
      stroke,
      dash,
      width: 2,
      points: { show: false },
    });
    this.#plot?.destroy();
    this.#plot = new uPlot(
      {
        width: Math.max(240, this.element.clientWidth || 420),
        height: HEIGHT,
        legend: { show: true, live: false },
        padding: [8, 26, 0, 0],
        cursor: { show: false },
        scales: { x: { time: false }, y: { range: () => [0, 1] } },
        axes: [
          { ...axisLook(colours), size: 28, ...LOGARITHMIC },
          { ...axisLook(colours), size: 52, values: (_, splits) => splits.map((value) => share(value)) },
        ],
        series: [
          { label: "threshold" },
          line("clipped_fraction", colours.warning, []),
          line("mean clip_coef", colours.text, [6, 4]),
        ],
        hooks: { drawClear: [(u) => this.#supported(u)], draw: [(u) => this.#upright(u)] },
      },
      [
        curve.map((point) => Math.log10(point.threshold)),
        curve.map((point) => point.clipped_fraction),
        curve.map((point) => point.mean_clip_coef),
      ],
      this.element,
    );
  }

  /** The supported range behind the lines. @param {uPlot} u */
  #supported(u) {
    const { advice, theme } = /** @type {Shown} */ (this.#shown);
    if (advice.low === null || advice.high === null) return;
    const place = (/** @type {number} */ threshold) => u.valToPos(Math.log10(threshold), "x", true);
    const left = Math.max(u.bbox.left, place(advice.low));
    const right = Math.min(u.bbox.left + u.bbox.width, place(advice.high));
    u.ctx.fillStyle = faded(ink(theme).line, 0.25);
    u.ctx.fillRect(left, u.bbox.top, Math.max(2, right - left), u.bbox.height);
  }

  /** The threshold under the slider. @param {uPlot} u */
  #upright(u) {
    const { threshold, theme } = /** @type {Shown} */ (this.#shown);
    const x = u.valToPos(Math.log10(threshold), "x", true);
    u.ctx.save();
    u.ctx.strokeStyle = ink(theme).chosen;
    u.ctx.lineWidth = 2 * devicePixelRatio;
    u.ctx.beginPath();
    u.ctx.moveTo(x, u.bbox.top);
    u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
    u.ctx.stroke();
    u.ctx.restore();
  }
}
