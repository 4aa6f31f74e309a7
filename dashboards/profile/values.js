// The depth profile in numbers: each row's value at one step, beside what is usual for it.
/** @import { Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Values } from "../heat/values.js" */
import { ABSENT, largest } from "../heat/values.js";

const LOW = 0.05; // the band goes from the 5th percentile of a row
const HIGH = 0.95; // to the 95th
const SAMPLE = 300; // columns that the percentiles are taken over, evenly chosen

/** @typedef {{ low: number, middle: number, high: number }} Band percentiles; NaN where no value is finite */

/**
 * The 5th, 50th and 95th percentile of each row's finite values, over 300 columns of the whole run or fewer.
 *
 * @param {Row[]} rows
 * @param {Values} values of `whole`
 * @param {Tile} whole
 * @returns {Band[]}
 */
export function bandsOf(rows, values, whole) {
  const columns = whole.arrays.first.length;
  const every = Math.ceil(columns / SAMPLE);
  const known = new Float64Array(columns);
  return rows.map((row) => {
    let size = 0;
    for (let column = 0; column < columns; column += every) {
      const value = largest(values, row, column);
      if (value !== ABSENT && Number.isFinite(value)) known[size++] = value;
    }
    const sorted = known.subarray(0, size).sort();
    const at = (/** @type {number} */ part) => (size ? sorted[Math.round(part * (size - 1))] : NaN);
    return { low: at(LOW), middle: at(0.5), high: at(HIGH) };
  });
}

/**
 * The ends of the profile's axis: room for all that is usual, and ten times above it.
 *
 * @param {Band[]} bands
 * @param {import("../heat/statistics.js").Statistic} statistic
 * @returns {[low: number, high: number]}
 */
export function axisOf(bands, { ends, log }) {
  if (ends) return ends;
  const lows = bands.map(({ low }) => low).filter((low) => low > 0);
  const highs = bands.map(({ high }) => high).filter((high) => high > 0);
  if (!highs.length) return log ? [0.1, 10] : [0, 1];
  return [(lows.length ? Math.min(...lows) : Math.min(...highs)) / 2, Math.max(...highs) * 10];
}

/**
 * Each row's value in a column; NaN, Infinity and ABSENT stay as they are. Without a column there is none.
 *
 * @param {Row[]} rows
 * @param {Values} values
 * @param {number} column -1: none
 */
export function profileAt(rows, values, column) {
  return rows.map((row) => (column < 0 ? ABSENT : largest(values, row, column)));
}

/**
 * How values change with depth: a straight line through the logarithms of those that are positive and finite, by least
 * squares.
 *
 * @param {number[]} profile from the first row, next to the input, to the last
 * @returns {{ ratio: number, total: number, fit: number } | null} `ratio` from a row to the one before it, towards the
 *   input; `total` from the last row to the first; `fit` the share of the variance explained. Null with fewer than
 *   three values.
 */
export function slopeOf(profile) {
  const points = [...profile.entries()].filter(([, value]) => value > 0 && value < Infinity);
  if (points.length < 3) return null;
  const logs = points.map(([, value]) => Math.log(value));
  const [x, y] = [points.map(([row]) => row), logs].map((all) => all.reduce((sum, one) => sum + one, 0) / all.length);
  let [xx, xy, yy] = [0, 0, 0];
  for (const [i, [row]] of points.entries()) {
    xx += (row - x) ** 2;
    xy += (row - x) * (logs[i] - y);
    yy += (logs[i] - y) ** 2;
  }
  const slope = xy / xx;
  const depth = points[points.length - 1][0] - points[0][0];
  return { ratio: Math.exp(-slope), total: Math.exp(-slope * depth), fit: yy > 0 ? xy ** 2 / (xx * yy) : 0 };
}

const CLEAR = 0.7; // of the variance: a line that explains less is no trend

/**
 * The slope in words. It does not judge: a fault in the last layers looks like a fall towards the input, too.
 *
 * @param {ReturnType<typeof slopeOf>} slope
 * @param {(value: number, digits?: number) => string} number
 */
export function slopeText(slope, number) {
  if (slope === null) return "";
  const { ratio, total, fit } = slope;
  if (fit < CLEAR) return "no trend with depth";
  const trend = ratio < 1 ? "falls" : "rises";
  return `${trend} towards the input, × ${number(ratio, 4)} a row, × ${number(total)} in all`;
}
