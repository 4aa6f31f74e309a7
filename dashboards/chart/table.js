// From lines to the table that uPlot draws.
/** @import { Line } from "../types.d.ts" */
import { smallestPositive } from "../draw/scales.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

/**
 * A row of steps, then for each line its highest values and, if it is a band, its lowest. On a logarithmic axis values
 * are powers of ten (uPlot's own logarithmic axes have no labels above 1e17, and norms explode further).
 *
 * @param {Line[]} lines
 * @param {boolean} log
 */
export function tableOf(lines, log) {
  const tables = lines.map((line) => {
    const steps = Array.from(line.first, (first, i) => (first + line.last[i]) / 2);
    const floor = log ? smallestPositive(line.high) / 10 : 0;
    const place = (/** @type {number} */ value) => (log ? Math.log10(Math.max(value, floor)) : value);
    const known = (/** @type {Float64Array} */ values) =>
      Array.from(values, (value) => (Number.isFinite(value) ? place(value) : null));
    return line.low ? [steps, known(line.high), known(line.low)] : [steps, known(line.high)];
  });
  const aligned = /** @type {uPlot.AlignedData[]} */ (/** @type {unknown} */ (tables));
  return aligned.length === 1 ? aligned[0] : uPlot.join(aligned);
}

/**
 * Where the y axis ends, given the least and the largest of what is drawn.
 *
 * @param {number | null} low
 * @param {number | null} high
 * @param {boolean} log whether the values are powers of ten
 * @returns {[low: number, high: number]}
 */
export function yRange(low, high, log) {
  if (low === null || high === null || !Number.isFinite(low)) return log ? [-1, 1] : [0, 1];
  if (log) {
    const margin = high - low < 0.3 ? 0.15 : 0.04 * (high - low);
    return [low - margin, high + margin];
  }
  if (low === high) {
    const margin = Math.abs(low || 1) * 0.1;
    return [low - margin, high + margin];
  }
  const [least, most] = uPlot.rangeNum(low, high, 0.08, true);
  return [least ?? low, most ?? high];
}
