// Layers by steps as pixels.
/** @import { Theme } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Values } from "./values.js" */
import { ink, palette, pixel } from "../draw/colours.js";
import { colourScale } from "../draw/scales.js";
import { rowsOfLine } from "./columns.js";
import { ABSENT } from "./values.js";

const STRIPE = 6; // px from one stripe to the next

/**
 * A picture with one pixel for each line and each place on the step axis, in the colour of the largest value there, and
 * a mask of what is not finite, or null if everything is.
 *
 * @param {object} picture
 * @param {number} picture.width
 * @param {number} picture.lines
 * @param {Row[]} picture.rows
 * @param {Values} picture.values
 * @param {{ begins: Int32Array, ends: Int32Array }} picture.columns of each pixel
 * @param {[low: number, high: number]} picture.ends of the colour scale
 * @param {import("./statistics.js").Statistic} picture.statistic
 * @param {Theme} picture.theme
 */
export function paint({ width, lines, rows, values, columns, ends, statistic, theme }) {
  const pixels = new Uint32Array(width * lines);
  const { bad, absent } = ink(theme);
  const colours = { bad: pixel(bad), absent: pixel(absent), shades: palette(statistic.colours, theme) };
  const scaled = colourScale(ends[0], ends[1], statistic.log ?? false);
  for (let line = 0; line < lines; line++) {
    const members = rows.slice(...rowsOfLine(line, rows.length, lines)).flatMap((row) => row.members);
    for (let x = 0; x < width; x++) {
      const most = largestOf(values, members, columns.begins[x], columns.ends[x]);
      pixels[line * width + x] = colourOf(most, colours, scaled);
    }
  }
  const mask = pixels.includes(colours.bad) ? pixels.map((one) => (one === colours.bad ? one : 0)) : null;
  return { picture: sheetOf(pixels, width, lines), mask: mask && sheetOf(mask, width, lines) };
}

/** @param {Uint32Array<ArrayBuffer>} pixels @param {number} width @param {number} height */
function sheetOf(pixels, width, height) {
  const sheet = new OffscreenCanvas(width, height);
  sheet.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
  return sheet;
}

/**
 * Hatches what a mask covers: without colour vision, what is not finite would look like a middling value.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {OffscreenCanvas} mask
 * @param {{ left: number, width: number, height: number }} place
 * @param {string} colour of the stripes
 */
export function hatch(ctx, mask, { left, width, height }, colour) {
  const stripes = new OffscreenCanvas(width, height);
  const to = stripes.getContext("2d");
  if (!to) return;
  to.imageSmoothingEnabled = false;
  to.drawImage(mask, 0, 0, width, height);
  to.globalCompositeOperation = "source-in";
  to.strokeStyle = colour;
  to.lineWidth = 1.5;
  const lines = new Path2D();
  for (let x = -height; x < width; x += STRIPE) {
    lines.moveTo(x, height);
    lines.lineTo(x + height, 0);
  }
  to.stroke(lines);
  ctx.drawImage(stripes, left, 0);
}

/** @param {Values} values @param {number[]} members @param {number} begin @param {number} end */
function largestOf(values, members, begin, end) {
  let most = -Infinity;
  for (let column = begin; column < end; column++)
    for (const layer of members) {
      const value = values(column, layer);
      if (value > most) most = value;
    }
  return most;
}

/**
 * @param {number} value
 * @param {{ bad: number, absent: number, shades: Uint32Array }} colours
 * @param {(value: number) => number} scaled
 */
function colourOf(value, { bad, absent, shades }, scaled) {
  if (value === -Infinity) return 0; // no step here: transparent
  if (value === Infinity) return bad;
  return value === ABSENT ? absent : shades[scaled(value)];
}
