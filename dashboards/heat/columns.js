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
 * The rows that a line of pixels shows, if there are more rows than lines.
 *
 * @param {number} line
 * @param {number} rows
 * @param {number} lines
 * @returns {[begin: number, end: number]}
 */
export function rowsOfLine(line, rows, lines) {
  const begin = Math.floor((line * rows) / lines);
  return [begin, Math.max(begin + 1, Math.floor(((line + 1) * rows) / lines))];
}

/**
 * The line of pixels that shows a row.
 *
 * @param {number} row
 * @param {number} rows
 * @param {number} lines
 */
export function lineOfRow(row, rows, lines) {
  const guess = Math.floor((row * lines) / rows);
  return guess + 1 < lines && rowsOfLine(guess + 1, rows, lines)[0] <= row ? guess + 1 : guess;
}
