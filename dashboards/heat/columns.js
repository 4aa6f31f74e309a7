// Which columns of a tile each pixel of the heat map shows.
/** @import { Range } from "../types.d.ts" */

/**
 * For each of `width` pixels the columns from `begins[x]` to before `ends[x]`; none where no step was recorded.
 *
 * @param {{ first: ArrayLike<number>, last: ArrayLike<number> }} columns
 * @param {Range} range the steps shown
 * @param {number} width in pixels
 * @param {number | null} [heldUntil] a sampled value holds until the next one, and the last one until this step
 */
export function pixelColumns({ first, last }, [from, to], width, heldUntil = null) {
  const [begins, ends] = [new Int32Array(width), new Int32Array(width)];
  let [begin, end] = [0, 0];
  for (let x = 0; x < width; x++) {
    const left = from + ((to - from) * x) / width;
    const right = from + ((to - from) * (x + 1)) / width;
    while (begin < last.length && last[begin] + 0.5 <= left) begin++;
    end = Math.max(end, begin);
    while (end < first.length && first[end] - 0.5 < right) end++;
    const holds = heldUntil !== null && begin === end && begin > 0 && left < heldUntil;
    begins[x] = holds ? begin - 1 : begin;
    ends[x] = end;
  }
  return { begins, ends };
}

/**
 * How many lines of pixels show the rows where there is room for so many.
 *
 * Each line but the last shows equally many rows. Else lines of a single bias among pairs of weight and bias would look
 * like layers that differ.
 *
 * @param {number} rows
 * @param {number} room
 */
export function linesFor(rows, room) {
  return Math.max(1, Math.ceil(rows / Math.ceil(rows / room)) || 1);
}

/**
 * The rows that a line of pixels shows.
 *
 * @param {number} line
 * @param {number} rows
 * @param {number} lines as many as `linesFor` gives
 * @returns {[begin: number, end: number]}
 */
export function rowsOfLine(line, rows, lines) {
  const each = Math.ceil(rows / lines);
  return [line * each, Math.min(rows, (line + 1) * each)];
}

/**
 * The line of pixels that shows a row.
 *
 * @param {number} row
 * @param {number} rows
 * @param {number} lines
 */
export function lineOfRow(row, rows, lines) {
  return Math.floor(row / Math.ceil(rows / lines));
}
