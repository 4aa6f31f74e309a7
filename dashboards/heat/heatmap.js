// Layers by steps as colours. Where steps or layers share a pixel, it shows the largest value.
/** @import { Range, RunEvent, StepActions, Theme, Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Frame } from "./frame.js" */
/** @import { Values } from "./values.js" */
import { paintOn } from "../draw/canvas.js";
import { ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { extent } from "../draw/scales.js";
import { pixelColumns } from "./columns.js";
import { FOOT, frameOf, holds, xOf } from "./frame.js";
import { drawEventMarks, drawNames, drawParting, drawPin, drawSelected } from "./labels.js";
import { legend } from "./legend.js";
import { hatch, paint } from "./paint.js";
import { followPointer } from "./pointer.js";
import { describe } from "./readout.js";
import { statistic } from "./statistics.js";

/**
 * @typedef {object} Shown
 * @property {string} stat
 * @property {Tile} tile the steps shown
 * @property {Tile} whole all steps: they decide the colour scale
 * @property {Values} values
 * @property {Row[]} rows
 * @property {Row | null} chosenRow
 * @property {Range} range
 * @property {number} lastStep of the run
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number[]} selected steps, ascending
 * @property {number | null} pin a step
 * @property {number | null} parting the step at which two runs part
 * @property {Theme} theme
 */

export class HeatMap {
  /** @type {Shown | null} */ #shown = null;
  #canvas = h("canvas", { class: "heat", role: "img", tabIndex: 0 });
  #cursor = h("div", { class: "heat-cursor", hidden: true });
  #readout = h("p", { class: "readout", "aria-live": "off" });
  #legend = h("div", { class: "legend" });
  #box = h("div", { class: "heat-box" }, this.#canvas, this.#cursor);
  /** The ends of the colour scale. @type {[low: number, high: number]} */ #ends = [0, 1];

  /**
   * @param {StepActions & { chooseRow(row: Row): void }} on
   * @param {HTMLElement} beside what stands at its right, with the same rows
   */
  constructor(on, beside) {
    const head = h("div", { class: "heat-head" }, this.#legend, this.#readout);
    this.element = h("div", {}, head, h("div", { class: "heat-row" }, this.#box, beside));
    followPointer(this.#canvas, {
      shown: () => this.#shown,
      frame: () => this.frame,
      tell: (text) => {
        this.#readout.textContent = text;
      },
      on,
    });
  }

  /** @param {Shown} shown */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    if (last && Object.entries(shown).every(([name, value]) => last[/** @type {keyof Shown} */ (name)] === value))
      return;
    const look = statistic(shown.stat);
    if (last?.whole !== shown.whole || last.stat !== shown.stat)
      this.#ends = look.ends ?? extent(shown.whole.arrays.values);
    this.#legend.replaceChildren(...legend(look, this.#ends, shown.theme));
    this.#canvas.setAttribute("aria-label", describe(shown));
    this.draw();
    performance.mark("gradwatch: layers drawn");
  }

  /** Draws again, at the width that there is now. */
  draw() {
    if (!this.#shown || !this.#box.clientWidth) return;
    const { rows, range, theme, chosenRow, selected, events, chosen, parting, pin } = this.#shown;
    const frame = this.frame;
    const { picture, mask } = this.#picture(this.#shown, frame, devicePixelRatio);
    paintOn(this.#canvas, this.#box.clientWidth, frame.height + FOOT, (ctx) => {
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(picture, frame.left, 0, frame.width, frame.height);
      if (mask) hatch(ctx, mask, frame, ink(theme).hatch);
      drawNames(ctx, frame, rows, chosenRow, theme);
      drawSelected(ctx, frame, range, selected, theme);
      drawEventMarks(ctx, frame, range, events, chosen, theme);
      drawParting(ctx, frame, range, parting, theme);
      drawPin(ctx, frame, range, pin, theme);
    });
  }

  /** @param {Shown} shown @param {Frame} frame @param {number} unit */
  #picture({ stat, tile, values, rows, range, lastStep, theme }, frame, unit) {
    const look = statistic(stat);
    const width = Math.round(frame.width * unit);
    const columns = pixelColumns(tile.arrays, range, width, look.sampled ? lastStep + 0.5 : null);
    return paint({ width, lines: frame.lines, rows, values, columns, ends: this.#ends, statistic: look, theme });
  }

  /** @returns {Frame} */
  get frame() {
    return frameOf(this.#shown?.rows.length ?? 0, this.#box.clientWidth, window.innerHeight);
  }

  /**
   * Shows the pointer of the page.
   *
   * @param {number | null} step
   */
  pointAt(step) {
    const frame = this.frame;
    const x = step === null || !this.#shown ? -1 : xOf(frame, this.#shown.range, step);
    this.#cursor.hidden = !holds(frame, x);
    this.#cursor.style.left = `${x}px`;
    this.#cursor.style.height = `${frame.height}px`;
  }
}
