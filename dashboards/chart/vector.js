// A chart drawn again on another canvas, in the pixels of its own: axes, bands and lines as uPlot draws them.
/** @import uPlot from "../vendor/uplot/uPlot.esm.js" */
/** @import { Line } from "../types.d.ts" */
import { segment } from "../draw/canvas.js";
import { faded } from "../draw/colours.js";
import { FONT } from "./options.js";
import { isolated } from "./table.js";

const TICK = 10; // px, as uPlot's default
const POINT = 5; // px across

/** @typedef {ArrayLike<number | null | undefined>} Column null is a gap, undefined is no place of this line */
/** @typedef {{ _splits: number[] | null, _values: (string | number | null)[] | null }} Found of an axis, by uPlot */

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {uPlot} u
 * @param {Line[]} lines
 * @param {{ faint: string, grid: string }} colours
 */
export function drawPlot(ctx, u, lines, colours) {
  drawAxes(ctx, u, colours);
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  let at = 1;
  for (const line of lines) {
    const [high, low] = [u.data[at], line.low ? u.data[at + 1] : null];
    if (low) drawBand(ctx, u, high, low, faded(line.colour, 0.35));
    drawLine(ctx, u, high, line, line.width ?? 1.2);
    if (low) drawLine(ctx, u, low, line, 0.6);
    at += low ? 2 : 1;
  }
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {uPlot} u @param {{ faint: string, grid: string }} colours */
function drawAxes(ctx, u, { faint, grid }) {
  const unit = devicePixelRatio;
  const { left, top, width, height } = u.bbox;
  const [across, up] = /** @type {Found[]} */ (/** @type {unknown} */ (u.axes));
  const bottom = top + height;
  ctx.font = FONT.replace(/[\d.]+/, (size) => String(Number(size) * unit));
  ctx.fillStyle = faint;
  ctx.strokeStyle = grid;
  ctx.lineWidth = unit;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  for (const { at, text } of ticksOf(u, "x", across)) {
    segment(ctx, at, top, at, bottom + TICK * unit);
    ctx.fillText(text, at, bottom + (TICK + 3) * unit);
  }
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const { at, text } of ticksOf(u, "y", up)) {
    segment(ctx, left - TICK * unit, at, left + width, at);
    ctx.fillText(text, left - (TICK + 5) * unit, at);
  }
}

/** @param {uPlot} u @param {"x" | "y"} scale @param {Found} axis */
function ticksOf(u, scale, { _splits: splits, _values: texts }) {
  return (splits ?? []).map((value, i) => ({
    at: Math.round(u.valToPos(value, scale, true)),
    text: String(texts?.[i] ?? ""),
  }));
}

/**
 * The stretches of a column without a gap.
 *
 * @param {Column} column
 * @returns {number[][]} indices
 */
export function stretchesOf(column) {
  /** @type {number[][]} */
  const found = [[]];
  for (let i = 0; i < column.length; i++) {
    if (column[i] === undefined) continue;
    if (column[i] === null) found.push([]);
    else found[found.length - 1].push(i);
  }
  return found.filter((stretch) => stretch.length);
}

/** @param {CanvasRenderingContext2D} ctx @param {uPlot} u @param {Column} column @param {Line} line @param {number} width */
function drawLine(ctx, u, column, { colour, dash = [] }, width) {
  const unit = devicePixelRatio;
  const place = placing(u, column);
  ctx.strokeStyle = ctx.fillStyle = colour;
  ctx.lineWidth = width * unit;
  ctx.setLineDash(dash.map((one) => one * unit));
  for (const stretch of stretchesOf(column)) {
    ctx.beginPath();
    for (const i of stretch) ctx.lineTo(...place(i));
    ctx.stroke();
  }
  ctx.setLineDash([]);
  for (const i of isolated(column)) {
    ctx.beginPath();
    ctx.arc(...place(i), (POINT / 2) * unit, 0, 2 * Math.PI);
    ctx.fill();
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {uPlot} u @param {Column} high @param {Column} low @param {string} fill */
function drawBand(ctx, u, high, low, fill) {
  const [above, below] = [placing(u, high), placing(u, low)];
  ctx.fillStyle = fill;
  for (const stretch of stretchesOf(high)) {
    ctx.beginPath();
    for (const i of stretch) ctx.lineTo(...above(i));
    for (const i of stretch.toReversed()) ctx.lineTo(...below(i));
    ctx.closePath();
    ctx.fill();
  }
}

/** @param {uPlot} u @param {Column} column @returns {(i: number) => [x: number, y: number]} */
function placing(u, column) {
  return (i) => [u.valToPos(u.data[0][i], "x", true), u.valToPos(/** @type {number} */ (column[i]), "y", true)];
}
