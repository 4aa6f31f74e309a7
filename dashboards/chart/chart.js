// One chart of lines over steps. A band from the lowest to the highest of each column keeps every step visible at every zoom.
/** @import { BadSpan, Line, Range, RunEvent, StepActions, Theme } from "../types.d.ts" */
import { ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { drawMarks } from "./marks.js";
import { optionsOf } from "./options.js";
import { describe, stepsAt, valuesAt } from "./readout.js";
import { above, capOf, tableOf } from "./table.js";

const LEAST_WIDTH = 240;
const CLICK = 3; // px that a click may move; a drag moves further

/**
 * @typedef {object} Shown
 * @property {string} title
 * @property {Line[]} lines none hides the chart
 * @property {boolean} [log]
 * @property {boolean} [robust] whether to cut the axis so that one explosion does not flatten the rest
 * @property {Range} range
 * @property {BadSpan[]} bad
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {Theme} theme
 */

export class Chart {
  /** @type {StepActions} */ #on;
  /** @type {Shown | null} */ #shown = null;
  /** @type {uPlot | null} */ #plot = null;
  /** @type {{ height: number, share: boolean }} */ #look;
  /** @type {{ step: number, colour: string }[]} */ #above = [];

  /**
   * @param {{ title: string, hint?: string, height: number, share?: boolean }} look `share`: values are shares
   * @param {StepActions} on
   */
  constructor({ title, hint, height, share = false }, on) {
    this.#on = on;
    this.#look = { height, share };
    this.readout = h("p", { class: "readout" });
    this.heading = h("h3", { title: hint }, title);
    this.canvas = h("div", { class: "plot", role: "img", "aria-label": title });
    this.element = h(
      "section",
      { class: "track", "aria-label": title },
      h("div", { class: "gutter" }, this.heading, this.readout),
      this.canvas,
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
    const same =
      last &&
      last.lines === shown.lines &&
      last.theme === shown.theme &&
      last.log === shown.log &&
      last.robust === shown.robust;
    if (!same || !this.#plot) return this.#rebuild(shown);
    if (last.range[0] !== shown.range[0] || last.range[1] !== shown.range[1])
      return this.#plot.setScale("x", { min: shown.range[0], max: shown.range[1] });
    if (last.events !== shown.events || last.chosen !== shown.chosen || last.bad !== shown.bad)
      this.#plot.redraw(false);
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
  #rebuild({ lines, theme, log = false, robust = false, title }) {
    this.#plot?.destroy();
    const cap = robust ? capOf(lines) : Infinity;
    this.#above = above(lines, cap);
    this.heading.classList.toggle("cut", this.#above.length > 0);
    const options = optionsOf({
      width: Math.max(LEAST_WIDTH, this.canvas.clientWidth),
      height: this.#look.height,
      share: this.#look.share,
      lines,
      log,
      colours: ink(theme),
      range: () => /** @type {Shown} */ (this.#shown).range,
      hooks: {
        draw: [(u) => drawMarks(u, /** @type {Shown} */ (this.#shown), this.#above)],
        ready: [(u) => this.#listen(u)],
        setSelect: [(u) => this.#selected(u)],
      },
    });
    this.#plot = new uPlot(options, tableOf(lines, log, cap), this.canvas);
    this.canvas.setAttribute("aria-label", `${title}: ${lines.map(describe).join("; ")}`);
  }

  /** @param {uPlot} u */
  #listen(u) {
    let began = 0;
    u.over.addEventListener("mousedown", (press) => {
      began = press.clientX;
    });
    u.over.addEventListener("click", (press) => {
      if (Math.abs(press.clientX - began) <= CLICK)
        this.#on.chooseNear((step) => u.valToPos(step, "x") - press.offsetX);
    });
    u.over.addEventListener("dblclick", () => this.#on.showAll());
    u.over.addEventListener("mousemove", (move) => this.#on.point(u.posToVal(move.offsetX, "x")));
    u.over.addEventListener("mouseleave", () => this.#on.point(null));
  }

  /** A drag ended: zoom to it. @param {uPlot} u */
  #selected(u) {
    if (u.select.width < 4) return;
    const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.#on.zoomTo(from, to);
  }
}
