// The entries of the chosen layer's gradient by magnitude: a picture over steps, and one sample as a table.
/** @import { Layers, Magnitudes, Range, State, StepActions, Theme } from "../types.d.ts" */
import { AXIS, GUTTER } from "../chart/layout.js";
import { paintOn } from "../draw/canvas.js";
import { gradient } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { share } from "../draw/text.js";
import { holds, stepAt, stepsWidth, xOf } from "../heat/frame.js";
import { memo } from "../state/memo.js";
import { layerShown } from "./layer.js";
import { drawMagnitudes, ENDS } from "./picture.js";
import { MagnitudesTable } from "./table.js";
import { binTold, noteText, sampleText } from "./text.js";
import { bandsOf, sampleOf } from "./values.js";

/**
 * @typedef {object} Given
 * @property {State} state
 * @property {Layers | null} layers
 * @property {Magnitudes | null} magnitudes of the chosen layer
 * @property {Range} range
 * @property {number} lastStep of the run
 * @property {Theme} theme
 */
/** @typedef {Given & { magnitudes: Magnitudes, name: string }} Shown */

export class MagnitudesPart {
  /** @type {StepActions & { look(change: { pin: number }): void }} */ #on;
  /** @type {Shown | null} */ #shown = null;
  /** @type {number | null} */ #pointer = null;
  #heading = h("h2");
  #canvas = h("canvas", { class: "magnitudes", role: "img", tabIndex: 0 });
  #cursor = h("div", { class: "heat-cursor", hidden: true });
  #box = h("div", { class: "heat-box" }, this.#canvas, this.#cursor);
  #legend = h("div", { class: "legend" });
  #readout = h("p", { class: "readout" });
  #note = h("p", { class: "faint" });
  #table = new MagnitudesTable();
  element = h(
    "section",
    { class: "magnitudes", "aria-label": "Entries by magnitude", hidden: true },
    this.#heading,
    h("div", { class: "heat-head" }, this.#legend, this.#readout),
    h("div", { class: "heat-row" }, this.#box),
    this.#note,
    this.#table.element,
  );

  /** @param {StepActions & { look(change: { pin: number }): void }} on */
  constructor(on) {
    this.#on = on;
    this.#canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => this.#point(offsetX, offsetY));
    this.#canvas.addEventListener("pointerleave", () => on.point(null));
    this.#canvas.addEventListener("keydown", (press) => this.#press(press));
  }

  #bands = memo((/** @type {string[]} */ bins) => bandsOf(bins));

  /** @param {Given} given */
  show(given) {
    const { state, layers, magnitudes, theme } = given;
    const layer = layers?.magnitudes ? layers.layers[layerShown(state.layer, layers) ?? -1] : undefined;
    this.element.hidden = !layer;
    this.element.classList.toggle("waiting", Boolean(layer) && magnitudes === null);
    this.#shown = layer && magnitudes ? { ...given, magnitudes, name: layer.name } : null;
    if (!layer || !magnitudes) return;
    this.#heading.replaceChildren("Entries by magnitude ", h("span", { class: "faint" }, layer.name));
    const [low, high] = ENDS.map((end) => share(end));
    const ramp = h("span", { class: "ramp", style: `background:${gradient(undefined, theme)}` });
    this.#legend.replaceChildren(h("span", {}, low), ramp, h("span", {}, `${high} of the entries`));
    this.#note.textContent = noteText(magnitudes, layer.numel);
    this.resize();
  }

  /** Draws again, at the width that there is now. */
  resize() {
    const shown = this.#shown;
    if (!shown || !this.#box.clientWidth) return;
    const { bands } = this.#bands(shown.magnitudes.about.bins);
    const frame = this.#frame(shown);
    const { pin } = shown.state;
    paintOn(this.#canvas, this.#box.clientWidth, frame.height, (ctx) =>
      drawMagnitudes(ctx, { ...shown, bands, frame, pin }),
    );
    this.#tell(shown);
  }

  /** @param {Shown} shown */
  #frame({ magnitudes }) {
    const { bands, height } = this.#bands(magnitudes.about.bins);
    const [lines, width] = [bands.length, stepsWidth(this.#box.clientWidth)];
    return { left: GUTTER + AXIS, width, height, lines, tall: 1, rows: lines };
  }

  /** @param {number | null} step where the pointer is */
  pointAt(step) {
    this.#pointer = step;
    const shown = this.#shown;
    if (!shown) return;
    const frame = this.#frame(shown);
    const x = step === null ? -1 : xOf(frame, shown.range, step);
    this.#cursor.hidden = !holds(frame, x);
    this.#cursor.style.left = `${x}px`;
    this.#cursor.style.height = `${frame.height}px`;
    this.#tell(shown);
  }

  /** The sample at the pointer, at the pinned step, or at the last step in view. @param {Shown} shown */
  #sample({ state, range, lastStep, magnitudes }) {
    return sampleOf(magnitudes, this.#pointer ?? state.pin ?? Math.min(lastStep, Math.floor(range[1])), lastStep);
  }

  /** @param {Shown} shown */
  #tell(shown) {
    const sample = this.#sample(shown);
    const text = sample < 0 ? "not counted here" : sampleText(shown.magnitudes, sample);
    this.#readout.textContent = text;
    this.#canvas.setAttribute(
      "aria-label",
      `entries of ${shown.name} by magnitude; ${text}; left and right arrow move`,
    );
    this.#table.show(shown.magnitudes, sample, text);
  }

  /** Tells the bin under the pointer. @param {number} x @param {number} y */
  #point(x, y) {
    const shown = this.#shown;
    if (!shown) return;
    const frame = this.#frame(shown);
    if (!holds(frame, x)) return this.#on.point(null);
    const step = stepAt(frame, shown.range, x);
    this.#on.point(step);
    const sample = sampleOf(shown.magnitudes, step, shown.lastStep);
    const { bands } = this.#bands(shown.magnitudes.about.bins);
    const band = bands.find(({ top, tall }) => top <= y && y < top + tall);
    if (band && sample >= 0) this.#readout.textContent = binTold(shown.magnitudes, sample, band);
  }

  /** The arrows pin the sample before or after. @param {KeyboardEvent} press */
  #press(press) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[press.key];
    const shown = this.#shown;
    if (!by || !shown || press.ctrlKey || press.metaKey || press.altKey) return;
    press.preventDefault();
    press.stopPropagation(); // the page's own arrows pan
    const { step } = shown.magnitudes.arrays;
    if (step.length) this.#on.look({ pin: step[Math.max(0, Math.min(step.length - 1, this.#sample(shown) + by))] });
  }
}
