// All events on the axis of steps, a row for each severity: none hides another of a different severity.
/** @import { Range, RunEvent, StepActions, Theme } from "../types.d.ts" */
import { AXIS, RIGHT } from "../chart/layout.js";
import { shape } from "../chart/marks.js";
import { paintOn } from "../draw/canvas.js";
import { faded, ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { count, whole } from "../draw/text.js";
import { nearestEvent, SEVERITIES } from "../state/events.js";

const ROW = 14; // px
const HEIGHT = ROW * SEVERITIES.length;
const REACH = 8; // px from a mark

/**
 * @typedef {object} Shown
 * @property {RunEvent[]} events of all optimizers
 * @property {RunEvent | null} chosen
 * @property {Range} range
 * @property {Theme} theme
 */

export class EventLane {
  /** @type {StepActions & { chooseEvent(event: RunEvent): void }} */ #on;
  /** @type {Shown | null} */ #shown = null;
  #canvas = h("canvas", { class: "lane", role: "img" });
  #readout = h("p", { class: "readout" });

  /** @param {StepActions & { chooseEvent(event: RunEvent): void }} on */
  constructor(on) {
    this.#on = on;
    const gutter = h("div", { class: "gutter" }, h("h3", {}, "events"), this.#readout);
    this.element = h("section", { class: "track", "aria-label": "events" }, gutter, h("div", {}, this.#canvas));
    this.#canvas.addEventListener("mousemove", (move) => this.#point(move));
    this.#canvas.addEventListener("mouseleave", () => this.#leave());
    this.#canvas.addEventListener("click", (press) => {
      const event = this.#eventAt(press);
      if (event) this.#on.chooseEvent(event);
    });
  }

  /** @param {Shown} shown */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    this.element.hidden = !shown.events.length;
    if (last && Object.entries(shown).every(([name, value]) => last[/** @type {keyof Shown} */ (name)] === value))
      return;
    const numbers = SEVERITIES.toReversed().map((severity) => {
      const amount = shown.events.filter((event) => event.severity === severity).length;
      return `${whole(amount)} ${severity}`;
    });
    this.#canvas.setAttribute("aria-label", `${count(shown.events.length, "event")} over steps: ${numbers.join(", ")}`);
    this.resize();
  }

  /** Draws again, at the width that there is now. */
  resize() {
    const width = this.#canvas.parentElement?.clientWidth ?? 0;
    if (this.#shown && width) paintOn(this.#canvas, width, HEIGHT, (ctx) => this.#paint(ctx, width));
  }

  /** @param {CanvasRenderingContext2D} ctx @param {number} width */
  #paint(ctx, width) {
    const { events, chosen, theme } = /** @type {Shown} */ (this.#shown);
    for (const [row, severity] of SEVERITIES.toReversed().entries()) this.#drawRow(ctx, row, severity, width);
    if (!chosen || !events.includes(chosen)) return;
    ctx.strokeStyle = ink(theme).chosen;
    ctx.strokeRect(this.#x(chosen.step) - 6.5, rowOf(chosen) * ROW + 0.5, 13, ROW - 1);
  }

  /**
   * @param {CanvasRenderingContext2D} ctx
   * @param {number} row
   * @param {RunEvent["severity"]} severity
   * @param {number} width
   */
  #drawRow(ctx, row, severity, width) {
    const { events, theme } = /** @type {Shown} */ (this.#shown);
    const colours = ink(theme);
    const y = (row + 0.5) * ROW;
    ctx.font = "10px system-ui, sans-serif";
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    ctx.fillStyle = colours.faint;
    ctx.fillText(severity, AXIS - 8, y);
    ctx.save();
    ctx.beginPath();
    ctx.rect(AXIS - 5, row * ROW, width - AXIS - RIGHT + 10, ROW);
    ctx.clip();
    for (const event of events) {
      if (event.severity !== severity) continue;
      const [begin, end] = [this.#x(event.step), this.#x(event.until ?? event.step)];
      ctx.fillStyle = faded(colours[severity], 0.3);
      ctx.fillRect(begin, y - 3, end - begin, 6);
      ctx.fillStyle = colours[severity];
      shape(ctx, begin, y, severity, 4);
    }
    ctx.restore();
  }

  /** @param {number} step */
  #x(step) {
    const { range } = /** @type {Shown} */ (this.#shown);
    return AXIS + ((step - range[0]) / (range[1] - range[0])) * (this.#canvas.clientWidth - AXIS - RIGHT);
  }

  /** @param {MouseEvent} place @returns {RunEvent | null} */
  #eventAt({ offsetX, offsetY }) {
    const row = Math.floor(offsetY / ROW);
    const inRow = (this.#shown?.events ?? []).filter((event) => rowOf(event) === row);
    return nearestEvent(inRow, (step) => this.#x(step) - offsetX, REACH);
  }

  /** @param {MouseEvent} move */
  #point(move) {
    const [from, to] = /** @type {Shown} */ (this.#shown).range;
    const part = (move.offsetX - AXIS) / (this.#canvas.clientWidth - AXIS - RIGHT);
    this.#on.point(part < 0 || part > 1 ? null : from + part * (to - from));
    const event = this.#eventAt(move);
    this.#canvas.style.cursor = event ? "pointer" : "";
    this.#readout.textContent = event ? `${event.severity} ${event.kind} at step ${whole(event.step)}` : "";
  }

  #leave() {
    this.#readout.textContent = "";
    this.#on.point(null);
  }
}

/** @param {RunEvent} event */
function rowOf(event) {
  return SEVERITIES.length - 1 - SEVERITIES.indexOf(event.severity);
}
