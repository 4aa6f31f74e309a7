// The scatter plot as a picture.
/** @import { Brush, Theme } from "../types.d.ts" */
/** @import { Cloud, Scale } from "./values.js" */
import { AXIS, RIGHT } from "../chart/layout.js";
import { FONT } from "../chart/options.js";
import { segment } from "../draw/canvas.js";
import { faded, ink, runColour, stepColours } from "../draw/colours.js";
import { decades, evenTicks } from "../draw/scales.js";
import { number } from "../draw/text.js";
import { partOf } from "./values.js";

export const HEIGHT = 300; // px
const [TOP, FOOT] = [8, 38]; // px above and below the points
const RADIUS = 2.5; // px of a point
const TICK = 4; // px

/** @typedef {{ left: number, top: number, width: number, height: number }} Box in px */

/** @param {number} width of the canvas @returns {Box} where points lie */
export function boxOf(width) {
  return { left: AXIS, top: TOP, width: Math.max(1, width - AXIS - RIGHT), height: HEIGHT - TOP - FOOT };
}

/**
 * Where a point lies.
 *
 * @param {Cloud} cloud
 * @param {Box} box
 * @param {number} point
 * @returns {[x: number, y: number]}
 */
export function placeOf({ x, y, across, up }, { left, top, width, height }, point) {
  return [left + partOf(across, x[point]) * width, top + (1 - partOf(up, y[point])) * height];
}

/**
 * @typedef {object} Picture
 * @property {Cloud} cloud
 * @property {[x: string, y: string]} labels
 * @property {number[]} selected
 * @property {Brush | null} brush
 * @property {string} tint what colours tell: "step" or "run"
 * @property {number} width of the canvas
 * @property {Theme} theme
 */

/** @param {CanvasRenderingContext2D} ctx @param {Picture} picture */
export function drawScatter(ctx, { cloud, labels, selected, brush, tint, width, theme }) {
  const box = boxOf(width);
  drawAxes(ctx, cloud, box, labels, theme);
  const colours = coloursOf(cloud, tint, theme);
  const chosen = new Set(selected);
  /** @param {(i: number) => boolean} which @param {number} radius */
  const draw = (which, radius) => {
    for (const i of cloud.x.keys()) {
      if (!which(i)) continue;
      ctx.fillStyle = colours(i);
      ctx.beginPath();
      ctx.arc(...placeOf(cloud, box, i), radius, 0, 2 * Math.PI);
      ctx.fill();
    }
  };
  ctx.globalAlpha = brush ? 0.3 : 1;
  draw((i) => !chosen.has(i), RADIUS);
  ctx.globalAlpha = 1;
  draw((i) => chosen.has(i), RADIUS + 1); // over the others
  if (brush) drawBrush(ctx, cloud, box, brush, theme);
}

/**
 * The colour of each point.
 *
 * @param {Cloud} cloud
 * @param {string} tint
 * @param {Theme} theme
 * @returns {(point: number) => string}
 */
function coloursOf({ step, run, runs }, tint, theme) {
  if (tint === "run") return (i) => runColour(runs[run[i]].slot, theme);
  const shades = stepColours(theme);
  const [first, last] = spanOf(step);
  const factor = (shades.length - 1) / Math.max(1, last - first);
  return (i) => shades[Math.round((step[i] - first) * factor)];
}

/** The first and the last step. @param {Float64Array} step @returns {[first: number, last: number]} */
export function spanOf(step) {
  return [
    step.reduce((least, one) => Math.min(least, one), Infinity),
    step.reduce((most, one) => Math.max(most, one), 0),
  ];
}

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {Cloud} cloud
 * @param {Box} box
 * @param {[x: string, y: string]} labels
 * @param {Theme} theme
 */
function drawAxes(ctx, { across, up }, { left, top, width, height }, [x, y], theme) {
  const { faint, grid, text } = ink(theme);
  const bottom = top + height;
  ctx.font = FONT;
  ctx.strokeStyle = grid;
  ctx.fillStyle = faint;
  ctx.lineWidth = 1;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  for (const { part, label } of ticksOf(across, width)) {
    segment(ctx, left + part * width, top, left + part * width, bottom + TICK);
    ctx.fillText(label, left + part * width, bottom + TICK + 2);
  }
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const { part, label } of ticksOf(up, height)) {
    segment(ctx, left - TICK, bottom - part * height, left + width, bottom - part * height);
    ctx.fillText(label, left - TICK - 3, bottom - part * height);
  }
  ctx.fillStyle = text;
  ctx.textBaseline = "bottom";
  ctx.fillText(`${x} →`, left + width, HEIGHT - 1);
  ctx.textAlign = "left";
  ctx.textBaseline = "top";
  ctx.fillText(`↑ ${y}`, left + 4, top);
}

/**
 * The ticks of an axis; on a logarithmic one 0 as well where something lies there.
 *
 * @param {Scale} scale
 * @param {number} length px
 * @returns {{ part: number, label: string }[]}
 */
function ticksOf(scale, length) {
  const { low, high, log } = scale;
  const most = Math.max(2, Math.floor(length / 70));
  const values = log
    ? decades(Math.log10(low), Math.log10(high)).map((power) => 10 ** power)
    : evenTicks(low, high, most);
  return values.map((value) => ({ part: partOf(scale, value), label: number(value) }));
}

/** @param {CanvasRenderingContext2D} ctx @param {Cloud} cloud @param {Box} box @param {Brush} brush @param {Theme} theme */
function drawBrush(ctx, { across, up }, { left, top, width, height }, [from, to, low, high], theme) {
  const { chosen } = ink(theme);
  const [x, right] = [partOf(across, from), partOf(across, to)].map((part) => left + part * width);
  const [y, bottom] = [partOf(up, high), partOf(up, low)].map((part) => top + (1 - part) * height);
  ctx.fillStyle = faded(chosen, 0.06);
  ctx.fillRect(x, y, right - x, bottom - y);
  ctx.strokeStyle = chosen;
  ctx.setLineDash([4, 3]);
  ctx.strokeRect(x, y, right - x, bottom - y);
  ctx.setLineDash([]);
}
