// The depth profile as a picture: values to the right, rows as in the heat map beside it.
/** @import { Theme } from "../types.d.ts" */
/** @import { Frame } from "../heat/frame.js" */
/** @import { Band } from "./values.js" */
import { faded, ink } from "../draw/colours.js";
import { rowsOfLine } from "../heat/columns.js";
import { ABSENT } from "../heat/values.js";

const MARGIN = 8; // px, left and right of the values
const DOTS = 5; // px: lines that are as tall have a dot for each value, thinner ones a curve through them

/**
 * Where a value lies, from 0 to the width. Values beyond the ends lie at the ends, marked (`beyond`).
 *
 * @param {[low: number, high: number]} ends
 * @param {boolean} log
 * @param {number} width
 */
export function placeOf([low, high], log, width) {
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  return (/** @type {number} */ value) => {
    const part = ((log ? Math.log(value) : value) - from) / Math.max(1e-12, to - from);
    return MARGIN + Math.max(0, Math.min(1, part)) * (width - 2 * MARGIN);
  };
}

/**
 * Whether a value lies below the ends of the axis (-1), between them (0) or above (1).
 *
 * @param {[low: number, high: number]} ends
 * @param {number} value
 */
export function beyond([low, high], value) {
  if (value < low) return -1;
  return value > high ? 1 : 0;
}

/**
 * Combines what shares a line of pixels: the largest value, and a band around all.
 *
 * @template One
 * @template All
 * @param {One[]} ofRows
 * @param {number} lines
 * @param {(some: One[]) => All} combine
 * @returns {All[]}
 */
export function byLine(ofRows, lines, combine) {
  return Array.from({ length: ofRows.length ? lines : 0 }, (_, line) =>
    combine(ofRows.slice(...rowsOfLine(line, ofRows.length, lines))),
  );
}

/** @param {Band[]} bands @returns {Band} */
export function hull(bands) {
  const known = bands.filter(({ high }) => !Number.isNaN(high));
  if (!known.length) return { low: NaN, middle: NaN, high: NaN };
  return {
    low: Math.min(...known.map(({ low }) => low)),
    middle: Math.max(...known.map(({ middle }) => middle)),
    high: Math.max(...known.map(({ high }) => high)),
  };
}

/**
 * @typedef {object} Picture
 * @property {Band[]} bands of each row
 * @property {number[]} now of each row
 * @property {number[] | null} ghost another step to compare with
 * @property {number | null} chosen a row
 * @property {Frame} frame
 * @property {(value: number) => number} place
 * @property {[low: number, high: number]} ends of the axis
 * @property {number} width
 * @property {Theme} theme
 */

/**
 * Draws usual values as bands, the ghost as rings or a thin curve, and the values now as dots or a curve.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Picture} picture
 */
export function drawProfile(ctx, { bands, now, ghost, chosen, frame, place, ends, width, theme }) {
  const colours = ink(theme);
  const { lines, tall } = frame;
  ctx.fillStyle = colours.grid;
  for (const [line, band] of byLine(bands, lines, hull).entries()) {
    if (Number.isNaN(band.high)) continue;
    const left = place(band.low);
    ctx.fillRect(
      left,
      line * tall + (tall > DOTS ? 1 : 0),
      Math.max(1, place(band.high) - left),
      tall - (tall > DOTS ? 2 : 0),
    );
  }
  if (chosen !== null) {
    ctx.strokeStyle = colours.chosen;
    ctx.strokeRect(0.5, Math.floor((chosen * lines) / Math.max(1, bands.length)) * tall - 0.5, width - 1, tall + 1);
  }
  const most = (/** @type {number[]} */ some) => Math.max(...some);
  const marks = { frame, place, ends, width, bad: colours.bad };
  if (ghost)
    drawValues(ctx, byLine(ghost, lines, most), { ...marks, colour: faded(colours.text, 0.45), filled: false });
  drawValues(ctx, byLine(now, lines, most), { ...marks, colour: colours.text, filled: true });
}

/** @typedef {{ colour: string, bad: string, filled: boolean }} Paint */
/** @typedef {Paint & Pick<Picture, "frame" | "place" | "ends" | "width">} Look */

/** @param {CanvasRenderingContext2D} ctx @param {number[]} values one for each line @param {Look} look */
function drawValues(ctx, values, look) {
  const { frame, width, bad, colour, filled } = look;
  ctx.lineWidth = filled ? 1.5 : 1;
  ctx.strokeStyle = ctx.fillStyle = colour;
  const finite = [...values.entries()].filter(([, value]) => value !== ABSENT && value < Infinity);
  if (frame.tall < DOTS) drawCurve(ctx, finite, look);
  else drawDots(ctx, finite, look);
  ctx.fillStyle = bad;
  for (const [line, value] of values.entries())
    if (value === Infinity) ctx.fillRect(width - MARGIN, line * frame.tall, MARGIN, frame.tall);
}

/** @param {CanvasRenderingContext2D} ctx @param {[line: number, value: number][]} values @param {Look} look */
function drawCurve(ctx, values, { frame: { tall }, place }) {
  ctx.beginPath();
  for (const [line, value] of values) ctx.lineTo(place(value), (line + 0.5) * tall);
  ctx.stroke();
}

/** @param {CanvasRenderingContext2D} ctx @param {[line: number, value: number][]} values @param {Look} look */
function drawDots(ctx, values, { frame: { tall }, place, ends, filled }) {
  for (const [line, value] of values) {
    const [x, y] = [place(value), (line + 0.5) * tall];
    const side = beyond(ends, value);
    ctx.beginPath();
    if (side) drawTip(ctx, x, y, side);
    else ctx.arc(x, y, filled ? 3.5 : 3, 0, 2 * Math.PI);
    if (filled) ctx.fill();
    else ctx.stroke();
  }
}

/** A triangle that points out of the axis. @param {CanvasRenderingContext2D} ctx @param {number} x @param {number} y @param {number} side */
function drawTip(ctx, x, y, side) {
  ctx.moveTo(x + side * 5, y);
  ctx.lineTo(x - side * 3, y - 4);
  ctx.lineTo(x - side * 3, y + 4);
  ctx.closePath();
}

/**
 * Writes the ends of the axis below the rows.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {[low: string, high: string]} texts of the lower and of the upper end
 * @param {number} top
 * @param {number} width
 * @param {Theme} theme
 */
export function drawEnds(ctx, [low, high], top, width, theme) {
  ctx.fillStyle = ink(theme).faint;
  ctx.font = "10px system-ui, sans-serif";
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  ctx.fillText(low, MARGIN, top);
  ctx.textAlign = "right";
  ctx.fillText(high, width - MARGIN, top);
}
