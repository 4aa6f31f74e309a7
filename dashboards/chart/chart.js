// One chart of lines over steps. A band from the lowest to the highest of each column keeps every step visible at every
// zoom.
/** @import { BadSpan, Line, Range, RunEvent, StepActions, Theme } from "../types.d.ts" */
import { keepPainter } from "../draw/canvas.js";
import { ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { TableView } from "../draw/tableview.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { axisOf } from "./axis.js";
import { listen, takeSelection } from "./gestures.js";
import { listing } from "./listing.js";
import { drawMarks } from "./marks.js";
import { optionsOf } from "./options.js";
import { describe, stepsAt, valuesAt } from "./readout.js";
import { above, capOf, cutText, tableOf } from "./table.js";
import { drawPlot } from "./vector.js";

const LEAST_WIDTH = 160; // px

/**
 * @typedef {object} Shown
 * @property {string} title
 * @property {Line[]} lines none hides the chart
 * @property {boolean} [log]
 * @property {boolean} [robust] whether to cut the axis so that one explosion does not flatten the rest
 * @property {Range | null} values the ends of the y axis, if the reader chose them
 * @property {Range} range
 * @property {BadSpan[]} bad
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number[]} selected steps, ascending
 * @property {boolean} tables whether a table stands below
 * @property {Theme} theme
 */

/** @type {(keyof Shown)[]} what a plot is built from */
const BUILT = ["lines", "theme", "log", "robust", "values"];
/** @type {(keyof Shown)[]} what is drawn over it */
const MARKED = ["events", "chosen", "bad", "selected"];

export class Chart {
  /** @type {StepActions} */ #on;
  /** @type {Shown | null} */ #shown = null;
  /** @type {uPlot | null} */ #plot = null;
  /** @type {{ title: string, height: number, share: boolean }} */ #look;
  /** @type {{ step: number, colour: string }[]} */ #above = [];
  #table = new TableView();
  /** Is called after each drawing. @type {() => void} */ whenDrawn = () => {};

  /**
   * @param {{ title: string, hint?: string, height: number, share?: boolean }} look `share`: values are shares
   * @param {StepActions} on
   */
  constructor({ title, hint, height, share = false }, on) {
    this.#on = on;
    this.#look = { title, height, share };
    this.readout = h("p", { class: "readout" });
    this.heading = h("h3", { title: hint }, title);
    this.limit = h("p", { class: "limit", title: "The axis ends here; whole y axis shows all." });
    this.canvas = h("div", { class: "plot", role: "img", "aria-label": title });
    this.box = h("div", { class: "plot-box" }, this.canvas);
    this.element = h(
      "section",
      { class: "track", "aria-label": title },
      h("div", { class: "gutter" }, this.heading, this.limit, this.readout),
      this.box,
      this.#table.element,
    );
  }

  /**
   * Shows lines over steps; draws only what changed since the last call.
   *
   * @param {Shown} shown
   */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    this.element.hidden = !shown.lines.length;
    this.heading.textContent = shown.title;
    if (!shown.lines.length) return;
    this.#list(shown, last);
    const same = last && BUILT.every((key) => last[key] === shown[key]);
    if (!same || !this.#plot) return this.#rebuild(shown);
    if (last.range[0] !== shown.range[0] || last.range[1] !== shown.range[1])
      return this.#plot.setScale("x", { min: shown.range[0], max: shown.range[1] });
    if (MARKED.some((key) => last[key] !== shown[key])) this.#plot.redraw(false);
  }

  /** @param {Shown} shown @param {Shown | null} last */
  #list({ tables, title, lines, range }, last) {
    if (!tables) return this.#table.hide();
    if (last?.tables && last.lines === lines && last.range === range && last.title === title) return;
    this.#table.show({ caption: title, ...listing(lines, range, this.#look.share) });
  }

  /** Its y axis; null if nothing is drawn. */
  get axis() {
    return this.#plot && this.#shown?.lines.length ? axisOf(this.#plot, this.#shown.log ?? false) : null;
  }

  /** Takes the width that there is now. */
  resize() {
    const width = this.canvas.clientWidth;
    if (this.#plot && width > 0 && width !== this.#plot.width)
      this.#plot.setSize({ width: Math.max(LEAST_WIDTH, width), height: this.#look.height });
  }

  /**
   * Shows the pointer of the page, and the values there.
   *
   * @param {number | null} step
   */
  pointAt(step) {
    if (!this.#plot || !this.#shown?.lines.length) return;
    const left = step === null ? -10 : this.#plot.valToPos(step, "x");
    if (!this.element.matches(":hover")) this.#plot.setCursor({ left, top: -10 }, false);
    this.readout.replaceChildren(...(step === null ? [] : this.#told(this.#shown.lines, step)));
  }

  /** @param {Line[]} lines @param {number} step */
  #told(lines, step) {
    const values = valuesAt(lines, step, this.#look.share).flatMap(({ colour, text }) => [
      h("span", {}, h("span", { class: "key", style: `background:${colour}` }), text),
      h("br"),
    ]);
    return [...values, stepsAt(lines, step)];
  }

  /** @param {Shown} shown */
  #rebuild({ lines, theme, log = false, robust = false, values, title }) {
    this.#plot?.destroy();
    const cap = robust && !values ? capOf(lines) : Infinity;
    const end = values ? values[1] : cap;
    this.#above = above(lines, end);
    this.limit.textContent = cutText(this.#above, end);
    const options = optionsOf({
      width: Math.max(LEAST_WIDTH, this.canvas.clientWidth),
      height: this.#look.height,
      share: this.#look.share,
      lines,
      log,
      values,
      colours: ink(theme),
      range: () => /** @type {Shown} */ (this.#shown).range,
      hooks: {
        draw: [(u) => drawMarks(u.ctx, u, /** @type {Shown} */ (this.#shown), this.#above), () => this.whenDrawn()],
        ready: [(u) => listen(u, this.#on)],
        setSelect: [(u) => this.#selected(u, log)],
      },
    });
    this.#plot = new uPlot(options, tableOf(lines, log, cap), this.canvas);
    keepPainter(this.#plot.ctx.canvas, (ctx) => this.#paint(ctx));
    this.canvas.setAttribute("aria-label", `${title}: ${lines.map(describe).join("; ")}`);
  }

  /** Draws the chart again, elsewhere. @param {CanvasRenderingContext2D} ctx */
  #paint(ctx) {
    if (!this.#plot || !this.#shown) return;
    ctx.scale(1 / devicePixelRatio, 1 / devicePixelRatio);
    drawPlot(ctx, this.#plot, this.#shown.lines, ink(this.#shown.theme));
    drawMarks(ctx, this.#plot, this.#shown, this.#above);
  }

  /** A drag ended: show what it selected. @param {uPlot} u @param {boolean} log */
  #selected(u, log) {
    const selection = takeSelection(u, log);
    if (selection && "steps" in selection) this.#on.zoomTo(...selection.steps);
    if (selection && "values" in selection) this.#on.zoomValues(this.#look.title, selection.values);
  }
}
