// Beside the chart of the total norm: how the norms in view are distributed, and a threshold to try on both.
/** @import { Distribution, Range, Series, Theme } from "../types.d.ts" */
/** @import { Chart } from "../chart/chart.js" */
/** @import { Norms } from "./values.js" */
import { paintOn } from "../draw/canvas.js";
import { h } from "../draw/dom.js";
import { count, span } from "../draw/text.js";
import { memo } from "../state/memo.js";
import { inForceIn } from "../state/thresholds.js";
import { ThresholdHandle } from "./handle.js";
import { drawDistribution } from "./picture.js";
import { effectText, longEffectText, percentiles, stepsText } from "./text.js";
import { barsOf, normsIn, quantileOf } from "./values.js";

/**
 * @typedef {object} Shown
 * @property {Distribution | null} distribution
 * @property {Series} series of the run
 * @property {Range} range
 * @property {number | null} trial
 * @property {number | null} recommended
 * @property {string} colour of the run
 * @property {Theme} theme
 */

export class DistributionPart {
  /** @type {Chart} */ #chart;
  /** @type {Shown | null} */ #shown = null;
  /** A threshold that is being dragged. @type {number | null} */ #dragged = null;
  /** @type {ThresholdHandle} */ #handle;
  #canvas = h("canvas", { class: "distribution", role: "img" });
  #table = h("table");

  /**
   * @param {Chart} chart of the total norm
   * @param {(trial: number | null) => void} tryOut
   */
  constructor(chart, tryOut) {
    this.#chart = chart;
    this.#handle = new ThresholdHandle(
      (threshold, done) => {
        this.#dragged = done ? null : threshold;
        if (done) tryOut(threshold);
        else this.draw();
      },
      () => tryOut(null),
    );
    chart.box.append(this.#handle.element);
    chart.box.append(h("div", { class: "unseen" }, this.#table));
    chart.element.append(h("div", { class: "beside" }, this.#canvas));
    chart.whenDrawn = () => this.draw();
    this.#canvas.addEventListener("pointerdown", (press) => this.#handle.drag(press, this.#canvas));
    this.#canvas.addEventListener("pointermove", (move) => this.#tell(move));
    this.#canvas.addEventListener("pointerleave", () => this.#chart.readout.replaceChildren());
  }

  /** @param {Shown} shown */
  show(shown) {
    this.#shown = shown;
    this.draw();
  }

  #norms = memo((/** @type {Distribution | null} */ distribution, /** @type {Range} */ range) =>
    distribution ? normsIn(distribution, range) : null,
  );

  /** Draws on the axis that the chart has now. */
  draw() {
    const shown = this.#shown;
    const { axis } = this.#chart;
    const norms = shown && this.#norms(shown.distribution, shown.range);
    if (!shown || !norms || !axis) {
      this.#handle.show(null);
      this.#canvas.hidden = true;
      return;
    }
    const { threshold, label } = this.#threshold(shown, norms);
    const tell = (/** @type {number} */ value) => ({
      short: effectText(norms, value, label),
      long: longEffectText(norms, value, label),
    });
    this.#handle.show({ axis, threshold, tell }, shown.trial !== null || this.#dragged !== null);
    this.#canvas.hidden = false;
    this.#describe(norms, longEffectText(norms, threshold, label));
    const width = this.#canvas.parentElement?.clientWidth ?? 0;
    if (!width) return;
    const { colour, theme } = shown;
    paintOn(this.#canvas, width, this.#chart.canvas.clientHeight, (ctx) =>
      drawDistribution(ctx, { norms, axis, threshold, width, colour, theme }),
    );
  }

  /**
   * Where the threshold is: dragged, tried, or else one that means something.
   *
   * @param {Shown} shown
   * @param {Norms} norms
   */
  #threshold({ trial, series, range, recommended }, norms) {
    const tried = this.#dragged ?? trial;
    if (tried !== null) return { threshold: tried, label: "" };
    const inForce = inForceIn(series, range);
    if (inForce !== null) return { threshold: inForce, label: "in force" };
    if (recommended !== null) return { threshold: recommended, label: "recommended" };
    return { threshold: quantileOf(norms, 0.99) || 1, label: "p99" };
  }

  #describe(/** @type {Norms} */ norms, /** @type {string} */ effect) {
    this.#canvas.setAttribute("aria-label", `distribution of the total norm of ${stepsText(norms)}; ${effect}`);
    const rows = percentiles(norms).map(([name, norm]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, norm)),
    );
    this.#table.replaceChildren(h("caption", {}, `total norm of ${stepsText(norms)}`), h("tbody", {}, ...rows));
  }

  /** Tells the bar under the pointer. @param {PointerEvent} move */
  #tell({ offsetY }) {
    const { axis } = this.#chart;
    const norms = this.#shown && this.#norms(this.#shown.distribution, this.#shown.range);
    if (!axis || !norms) return;
    const y = offsetY - axis.top;
    const bar = barsOf(norms, axis, 4).bars.find(({ top, tall }) => top <= y && y < top + tall);
    this.#chart.readout.textContent = bar
      ? `${count(bar.count, "step")} with a norm of ${span(bar.low, bar.high)}`
      : "";
  }
}
