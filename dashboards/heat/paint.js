// Layers by steps as pixels.
/** @import { Theme } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Values } from "./values.js" */
import { ink, palette, pixel } from "../draw/colours.js";
import { colourScale } from "../draw/scales.js";
import { rowsOfLine } from "./columns.js";
import { ABSENT } from "./values.js";

/**
 * A picture with one pixel for each line and each place on the step axis, in the colour of the largest value there.
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
  const image = new ImageData(width, lines);
  const pixels = new Uint32Array(image.data.buffer);
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
  const sheet = new OffscreenCanvas(width, lines);
  sheet.getContext("2d")?.putImageData(image, 0, 0);
  return sheet;
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
