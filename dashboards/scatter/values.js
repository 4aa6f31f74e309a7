// The points of the scatter plot: which there are, where they lie, and which are selected.
/** @import { Brush, Range, Scatter } from "../types.d.ts" */
import { ends } from "../draw/scales.js";

export const FIRST = "loss total_norm"; // drawn when the plot is opened: to the right, then upwards
const WIDE = 100; // from the least to the largest value: a linear axis would hide the small ones

/** What can be drawn, and whether its axis always has powers of ten. @type {Record<string, { label: string, log: boolean }>} */
export const QUANTITIES = {
  total_norm: { label: "total norm", log: true },
  loss: { label: "loss", log: false },
  learning_rate: { label: "learning rate", log: false },
  update_ratio: { label: "update_ratio", log: true },
  update_norm: { label: "update_norm", log: true },
  clip_coef: { label: "clip_coef", log: true },
};

/** @typedef {{ name: string, slot: number, focused: boolean, scatter: Scatter }} Sampled */

/**
 * @typedef {object} Scale
 * @property {number} low
 * @property {number} high
 * @property {boolean} log values that are not positive then lie at the lower end
 */

/**
 * @typedef {object} Cloud the points with two finite values, run by run and in each by step
 * @property {Float64Array} x
 * @property {Float64Array} y
 * @property {Float64Array} step
 * @property {Uint8Array} run index of the run
 * @property {Sampled[]} runs
 * @property {Scale} across
 * @property {Scale} up
 */

/**
 * The quantities with a finite value in one of the runs.
 *
 * @param {Sampled[]} runs
 */
export function offered(runs) {
  return Object.keys(QUANTITIES).filter((name) =>
    runs.some(({ scatter }) => columnOf(scatter, name).some(Number.isFinite)),
  );
}

/**
 * The quantities to draw: those asked for if they are offered.
 *
 * @param {string} plot two names
 * @param {string[]} names those offered
 * @returns {[x: string, y: string] | null} null if there are no two quantities
 */
export function axesOf(plot, names) {
  if (names.length < 2) return null;
  const [x, y] = plot.split(" ");
  const up = names.includes(y) ? y : names[0];
  const others = names.filter((name) => name !== up);
  return [others.includes(x) ? x : others[0], up];
}

/** The values of a quantity, NaN throughout if it is not known. @param {Scatter} scatter @param {string} name */
export function columnOf({ about: { quantities }, arrays: { values, step } }, name) {
  const at = quantities.indexOf(name);
  return Float64Array.from(step, (_, i) => (at < 0 ? NaN : values[i * quantities.length + at]));
}

/**
 * The points of the steps in view.
 *
 * @param {Sampled[]} runs
 * @param {[x: string, y: string]} axes
 * @param {Range} range
 * @returns {Cloud}
 */
export function cloudOf(runs, [x, y], [from, to]) {
  /** @type {[x: number, y: number, step: number, run: number][]} */
  const points = [];
  for (const [run, { scatter }] of runs.entries()) {
    const [across, up] = [columnOf(scatter, x), columnOf(scatter, y)];
    for (const [i, step] of scatter.arrays.step.entries())
      if (step >= from && step <= to && Number.isFinite(across[i]) && Number.isFinite(up[i]))
        points.push([across[i], up[i], step, run]);
  }
  const numbers = (/** @type {number} */ at) => Float64Array.from(points, (point) => point[at]);
  const [all, above] = [numbers(0), numbers(1)];
  const scales = { across: scaleOf(all, QUANTITIES[x].log), up: scaleOf(above, QUANTITIES[y].log) };
  return { x: all, y: above, step: numbers(2), run: Uint8Array.from(points, (point) => point[3]), runs, ...scales };
}

/**
 * An axis that holds all values, with some room at its ends.
 *
 * @param {Float64Array} values
 * @param {boolean} log whether it has powers of ten if a value is positive
 * @returns {Scale}
 */
export function scaleOf(values, log) {
  const [least, most] = ends(values);
  const [low, high] = ends(values.filter((value) => value > 0));
  if (log ? high > 0 : least > 0 && most / least > WIDE) {
    const room = Math.max(1.1, Math.exp(0.04 * logRatio(low, high)));
    return { low: Math.max(low / room, Number.MIN_VALUE), high: Math.min(high * room, Number.MAX_VALUE), log: true };
  }
  if (!values.length) return { low: 0, high: 1, log: false };
  const room = 0.04 * (most - least) || 0.1 * Math.abs(most || 1);
  return { low: least - room, high: most + room, log: false };
}

/**
 * Where a value lies on an axis, from 0 to 1; at an end if it lies beyond.
 *
 * @param {Scale} scale
 * @param {number} value
 */
export function partOf({ low, high, log }, value) {
  if (log && value <= 0) return 0;
  const part = log ? logRatio(low, value) / logRatio(low, high) : (value - low) / (high - low);
  return Math.max(0, Math.min(1, part));
}

/**
 * The value at a place on an axis. The lower end of a logarithmic one is 0, where all that is not positive lies.
 *
 * @param {Scale} scale
 * @param {number} part from 0 to 1
 */
export function valueAt({ low, high, log }, part) {
  if (!log) return low + part * (high - low);
  return part <= 0 ? 0 : Math.exp(Math.log(low) + part * logRatio(low, high));
}

/** The logarithm of a ratio that may overflow. @param {number} low @param {number} high */
function logRatio(low, high) {
  return Math.log(high) - Math.log(low);
}

/**
 * The points within a rectangle.
 *
 * @param {Cloud} cloud
 * @param {Brush | null} brush
 * @returns {number[]} indices
 */
export function selectedIn({ x, y }, brush) {
  if (!brush) return [];
  const [left, right, low, high] = brush;
  return [...x.keys()].filter((i) => x[i] >= left && x[i] <= right && y[i] >= low && y[i] <= high);
}

/**
 * The steps of some points, ascending, each once.
 *
 * @param {Cloud} cloud
 * @param {number[]} points
 * @param {(run: Sampled) => boolean} [of] runs whose points count
 */
export function stepsOf({ step, run, runs }, points, of = () => true) {
  return [...new Set(points.filter((i) => of(runs[run[i]])).map((i) => step[i]))].sort((a, b) => a - b);
}
