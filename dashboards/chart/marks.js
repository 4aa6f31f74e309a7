// Marks on a canvas: events, and steps at which something was NaN or infinite.
/** @import uPlot from "../vendor/uplot/uPlot.esm.js" */
/** @import { BadSpan, RunEvent, Severity, Theme } from "../types.d.ts" */
import { faded, ink } from "../draw/colours.js";
import { marked } from "../state/events.js";

const GAP = 3; // px between the marks of two events

/**
 * @typedef {object} Canvas where to draw, in the pixels of the canvas
 * @property {CanvasRenderingContext2D} ctx
 * @property {{ left: number, top: number, width: number, height: number }} box
 * @property {(step: number) => number} x
 * @property {number} unit pixels of the canvas for one of CSS
 * @property {Record<"bad" | "chosen" | Severity, string>} colours
 */

/**
 * Draws all marks of a chart.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {uPlot} u
 * @param {{ bad: BadSpan[], events: RunEvent[], chosen: RunEvent | null, selected: number[], theme: Theme }} shown
 * @param {{ step: number, colour: string }[]} above columns that rise above the axis
 */
export function drawMarks(ctx, u, { bad, events, chosen, selected, theme }, above) {
  const x = (/** @type {number} */ step) => u.valToPos(step, "x", true);
  const canvas = { ctx, box: u.bbox, unit: devicePixelRatio, colours: ink(theme), x };
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  drawBad(canvas, bad);
  drawSelected(canvas, selected);
  drawEvents(canvas, events, chosen);
  drawAbove(canvas, above);
  ctx.restore();
}

/**
 * Paints the columns of steps that were not finite. Infinity gets a triangle; NaN has no direction.
 *
 * @param {Canvas} canvas
 * @param {BadSpan[]} spans
 */
function drawBad({ ctx, box, x, unit, colours }, spans) {
  for (const { first, last, infinite } of spans) {
    const begin = x(first - 0.5);
    const width = Math.max(2 * unit, x(last + 0.5) - begin);
    ctx.fillStyle = faded(colours.bad, 0.22);
    ctx.fillRect(begin, box.top, width, box.height);
    ctx.fillStyle = colours.bad;
    ctx.fillRect(begin, box.top, width, 4 * unit);
    if (infinite) shape(ctx, begin + width / 2, box.top + 9 * unit, "critical", 4 * unit);
  }
}

/**
 * Shades the steps that are selected in the scatter plot, with a bar below.
 *
 * @param {Canvas} canvas
 * @param {number[]} steps
 */
function drawSelected({ ctx, box, x, unit, colours }, steps) {
  for (const [begin, end] of stretches(steps, x, unit)) {
    ctx.fillStyle = faded(colours.chosen, 0.12);
    ctx.fillRect(begin, box.top, end - begin, box.height);
    ctx.fillStyle = colours.chosen;
    ctx.fillRect(begin, box.top + box.height - 3 * unit, end - begin, 3 * unit);
  }
}

/**
 * Where steps lie on an axis, those that touch each other as one; each at least 2 px wide.
 *
 * @param {number[]} steps ascending
 * @param {(step: number) => number} x
 * @param {number} unit px
 * @returns {[begin: number, end: number][]}
 */
export function stretches(steps, x, unit) {
  /** @type {[begin: number, end: number][]} */
  const found = [];
  for (const step of steps) {
    const begin = x(step - 0.5);
    const end = Math.max(begin + 2 * unit, x(step + 0.5));
    const before = found.at(-1);
    if (before && begin <= before[1] + 0.5 * unit) before[1] = Math.max(before[1], end);
    else found.push([begin, end]);
  }
  return found;
}

/**
 * Draws an upright line with a mark for each event that has room.
 *
 * @param {Canvas} canvas
 * @param {RunEvent[]} events
 * @param {RunEvent | null} chosen
 */
function drawEvents({ ctx, box, x, unit, colours }, events, chosen) {
  const grave = events.filter((event) => event.severity !== "info" || event === chosen); // the lane has them all
  for (const event of marked(grave, x, GAP * unit, chosen)) {
    const at = x(event.step);
    ctx.strokeStyle = ctx.fillStyle = event === chosen ? colours.chosen : colours[event.severity];
    ctx.lineWidth = event === chosen ? 2 * unit : unit;
    ctx.setLineDash(event === chosen ? [] : [3 * unit, 3 * unit]);
    ctx.beginPath();
    ctx.moveTo(at, box.top);
    ctx.lineTo(at, box.top + box.height);
    ctx.stroke();
    shape(ctx, at, box.top + box.height - 5 * unit, event.severity, 4 * unit);
  }
}

/**
 * Draws a triangle at the top for each stretch of columns that rise above the axis.
 *
 * @param {Canvas} canvas
 * @param {{ step: number, colour: string }[]} places
 */
function drawAbove({ ctx, box, x, unit }, places) {
  let last = { at: -Infinity, colour: "" };
  for (const { step, colour } of places) {
    const at = x(step);
    if (colour === last.colour && Math.abs(at - last.at) < 8 * unit) continue;
    ctx.fillStyle = colour;
    shape(ctx, at, box.top + 5 * unit, "critical", 4 * unit);
    last = { at, colour };
  }
}

/**
 * Fills a shape that tells the severity without its colour: a triangle, a rhombus or a disc.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {number} x its centre
 * @param {number} y
 * @param {Severity} severity
 * @param {number} size
 */
export function shape(ctx, x, y, severity, size) {
  ctx.setLineDash([]);
  ctx.beginPath();
  if (severity === "critical") {
    ctx.moveTo(x - size, y + size);
    ctx.lineTo(x + size, y + size);
    ctx.lineTo(x, y - size);
    ctx.closePath();
  } else if (severity === "warning") {
    ctx.moveTo(x, y - size);
    ctx.lineTo(x + size, y);
    ctx.lineTo(x, y + size);
    ctx.lineTo(x - size, y);
    ctx.closePath();
  } else {
    ctx.arc(x, y, size * 0.7, 0, 2 * Math.PI);
  }
  ctx.fill();
}
