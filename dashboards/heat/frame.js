// The geometry of the heat map, in CSS pixels.
/** @import { Range } from "../types.d.ts" */
import { AXIS, GUTTER, RIGHT } from "../chart/layout.js";
import { lineOfRow, linesFor, rowsOfLine } from "./columns.js";

export const FOOT = 12; // below the layers, for the marks of events
const TALLEST = 22; // a row
const LEFT = GUTTER + AXIS;

/**
 * @typedef {object} Frame
 * @property {number} left where the steps begin
 * @property {number} width of the steps
 * @property {number} height of the rows
 * @property {number} lines of pixels: as many as rows, or fewer where they don't fit
 * @property {number} tall height of one line
 * @property {number} rows
 */

/**
 * The room for steps in a box.
 *
 * @param {number} boxWidth
 */
export function stepsWidth(boxWidth) {
  return Math.max(1, boxWidth - LEFT - RIGHT);
}

/**
 * Rows of equal height that fill at most 60% of the window. If there are too many,
 * equally many share each line of pixels.
 *
 * @param {number} rows
 * @param {number} boxWidth
 * @param {number} windowHeight
 * @returns {Frame}
 */
export function frameOf(rows, boxWidth, windowHeight) {
  const room = Math.floor(Math.max(180, Math.min(560, windowHeight * 0.6)));
  const lines = linesFor(rows, room);
  const tall = Math.min(TALLEST, lines < rows ? room / lines : Math.floor(room / lines)); // so many fill the room
  return { left: LEFT, width: stepsWidth(boxWidth), height: Math.round(lines * tall), lines, tall, rows };
}

/** @param {Frame} frame @param {Range} range @param {number} step */
export function xOf({ left, width }, [from, to], step) {
  return left + ((step - from) / (to - from)) * width;
}

/** @param {Frame} frame @param {Range} range @param {number} x */
export function stepAt({ left, width }, [from, to], x) {
  return from + ((x - left) / width) * (to - from);
}

/** @param {Frame} frame @param {number} x */
export function holds({ left, width }, x) {
  return x >= left && x <= left + width;
}

/**
 * The rows at a height.
 *
 * @param {Frame} frame
 * @param {number} y
 */
export function rowsAt({ lines, tall, rows }, y) {
  return rowsOfLine(Math.max(0, Math.min(lines - 1, Math.floor(y / tall))), rows, lines);
}

/**
 * The top of the line that shows a row.
 *
 * @param {Frame} frame
 * @param {number} row
 */
export function topOf({ lines, tall, rows }, row) {
  return lineOfRow(row, rows, lines) * tall;
}
