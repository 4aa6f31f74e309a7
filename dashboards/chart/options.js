// How uPlot draws a chart.
/** @import { Line, Range } from "../types.d.ts" */
import { faded } from "../draw/colours.js";
import { decades } from "../draw/scales.js";
import { number, share } from "../draw/text.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { AXIS, RIGHT } from "./layout.js";
import { isolated, yRange } from "./table.js";

export const FONT = "11px system-ui";

/** Distances of ticks on the axis of steps: there is nothing between two steps. */
const WHOLE = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** The y axis of a chart whose values are powers of ten. @type {Partial<uPlot.Axis>} */
export const LOGARITHMIC = {
  splits: (_u, _axis, low, high) => decades(low, high),
  filter: (_u, splits) => splits,
  incrs: [1000],
  values: (_u, powers) => powers.map((power) => number(10 ** power)),
};

/**
 * The look that all axes share.
 *
 * @param {{ faint: string, grid: string }} colours
 */
export function axisLook({ faint, grid }) {
  return { stroke: faint, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid }, font: FONT };
}

/**
 * The options of a chart over steps.
 *
 * @param {object} chart
 * @param {number} chart.width
 * @param {number} chart.height
 * @param {Line[]} chart.lines
 * @param {boolean} chart.log
 * @param {boolean} chart.share whether values are shares: the axis goes from 0 to 1
 * @param {Range | null} chart.values the ends of the y axis, if the reader chose them
 * @param {{ faint: string, grid: string }} chart.colours
 * @param {() => Range} chart.range the steps shown
 * @param {uPlot.Hooks.Arrays} chart.hooks
 * @returns {uPlot.Options}
 */
export function optionsOf({ width, height, lines, log, share: isShare, values, colours, range, hooks }) {
  const axis = axisLook(colours);
  const texts = isShare ? shares : numbers;
  return {
    width,
    height,
    hooks,
    ...seriesOf(lines),
    padding: [6, RIGHT, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, range },
      y: { range: (_u, low, high) => yEnds(values, low, high, log, isShare) },
    },
    axes: [
      { ...axis, size: 28, gap: 3, incrs: WHOLE, values: wholeSteps },
      { ...axis, size: AXIS, space: 22, ...(log ? LOGARITHMIC : { values: texts }) },
    ],
    cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false }, bind: { dblclick: () => null } },
  };
}

/**
 * @param {Range | null} chosen
 * @param {number | null} low
 * @param {number | null} high
 * @param {boolean} log
 * @param {boolean} isShare
 * @returns {Range}
 */
function yEnds(chosen, low, high, log, isShare) {
  if (chosen) return log ? [Math.log10(chosen[0]), Math.log10(chosen[1])] : chosen;
  return isShare ? [0, 1] : yRange(low, high, log);
}

/** @param {Line[]} lines */
function seriesOf(lines) {
  /** @type {uPlot.Series[]} */
  const series = [{}];
  /** @type {uPlot.Band[]} */
  const bands = [];
  for (const line of lines) {
    const points = { show: false, filter: alone, size: 5, fill: line.colour, stroke: line.colour };
    const look = { stroke: line.colour, width: line.width ?? 1.2, dash: line.dash, points };
    series.push({ ...look, label: line.label });
    if (!line.low) continue;
    bands.push({ series: [series.length - 1, series.length], fill: faded(line.colour, 0.35) });
    series.push({ ...look, label: `${line.label}, lowest`, width: 0.6 });
  }
  return { series, bands };
}

/** @param {uPlot} u @param {number} series */
function alone(u, series) {
  return isolated(u.data[series]);
}

/** @param {uPlot} _u @param {number[]} splits */
function wholeSteps(_u, splits) {
  return splits.map((step) => (Number.isInteger(step) ? step.toLocaleString("en-US") : ""));
}

/** @param {uPlot} _u @param {number[]} splits */
function numbers(_u, splits) {
  return splits.map((value) => number(value));
}

/** @param {uPlot} _u @param {number[]} splits */
function shares(_u, splits) {
  return splits.map((value) => share(value));
}
