// From lines to the table that uPlot draws.
/** @import { Line } from "../types.d.ts" */
import { ends, smallestPositive } from "../draw/scales.js";
import { number } from "../draw/text.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const TALL = 100; // times the median: as high as an axis goes, as in the terminal

/**
 * Where an axis is cut so that one explosion does not flatten the rest: 100 times the median magnitude of the line with
 * the highest one. Infinity if nothing lies above. Magnitudes, since the loss of a critic is around 0 or below.
 *
 * @param {Line[]} lines
 */
export function capOf(lines) {
  const own = lines.filter((line) => !line.reference);
  const caps = own.map(({ high }) => {
    const known = high.filter(Number.isFinite).map(Math.abs).sort();
    return known.length ? TALL * known[Math.floor((known.length - 1) / 2)] : 0;
  });
  const cap = Math.max(0, ...caps);
  return cap > 0 && own.some(({ high }) => ends(high)[1] > cap) ? cap : Infinity;
}

/**
 * A row of steps, then for each line its highest values and, if it is a band, its lowest. On a logarithmic axis values
 * are powers of ten (uPlot's own logarithmic axes have no labels above 1e17, and norms explode further).
 *
 * @param {Line[]} lines
 * @param {boolean} log
 * @param {number} [cap] what lies above is drawn here; a reference above is not drawn
 */
export function tableOf(lines, log, cap = Infinity) {
  const tables = lines.map((line) => {
    const steps = Array.from(line.first, (first, i) => (first + line.last[i]) / 2);
    const floor = log ? smallestPositive(line.high) / 10 : 0;
    const place = (/** @type {number} */ value) => (log ? Math.log10(Math.max(value, floor)) : value);
    const known = (/** @type {number} */ value) => Number.isFinite(value) && !(line.reference && value > cap);
    const column = (/** @type {Float64Array} */ values) =>
      Array.from(values, (value) => (known(value) ? place(Math.min(value, cap)) : null));
    return line.low ? [steps, column(line.high), column(line.low)] : [steps, column(line.high)];
  });
  const aligned = /** @type {uPlot.AlignedData[]} */ (/** @type {unknown} */ (tables));
  return aligned.length === 1 ? aligned[0] : uPlot.join(aligned);
}

/**
 * The columns that rise above a cap, each with the colour of its line.
 *
 * @param {Line[]} lines
 * @param {number} cap
 * @returns {{ step: number, colour: string }[]}
 */
export function above(lines, cap) {
  if (cap === Infinity) return [];
  return lines.flatMap(({ reference, first, last, high, colour }) =>
    reference
      ? []
      : [...high.keys()].filter((i) => high[i] > cap).map((i) => ({ step: (first[i] + last[i]) / 2, colour })),
  );
}

/**
 * What the triangles of a chart mean; empty where nothing rises above its axis.
 *
 * @param {{ step: number }[]} risen columns above
 * @param {number} cap
 */
export function cutText(risen, cap) {
  return risen.length ? `▲ above ${number(cap)}` : "";
}

/**
 * Where values stand alone, between gaps: no line reaches them, so they get a point.
 *
 * @param {ArrayLike<number | null | undefined>} values null is a gap; undefined is no place of this line at all
 * @returns {number[]} their indices
 */
export function isolated(values) {
  const places = [...Array(values.length).keys()].filter((i) => values[i] !== undefined);
  const gap = (/** @type {number} */ at) => at < 0 || at >= places.length || values[places[at]] === null;
  return places.filter((_, at) => !gap(at) && gap(at - 1) && gap(at + 1));
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
