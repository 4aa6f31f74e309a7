// Where values lie on the y axis of what uPlot draws.
/** @import uPlot from "../vendor/uplot/uPlot.esm.js" */

/**
 * @typedef {object} Axis in CSS pixels
 * @property {number} top of the plot area below the top of the chart
 * @property {number} height of the plot area
 * @property {(value: number) => number} y below the top of the plot area
 * @property {(y: number) => number} value
 */

/**
 * @param {uPlot} u
 * @param {boolean} log whether the axis has powers of ten
 * @returns {Axis}
 */
export function axisOf(u, log) {
  const { min = 0, max = 1 } = u.scales.y;
  const height = u.bbox.height / devicePixelRatio;
  const [low, high] = [min ?? 0, max ?? 1];
  const part = (/** @type {number} */ value) => ((log ? Math.log10(value) : value) - low) / (high - low);
  return {
    top: u.bbox.top / devicePixelRatio,
    height,
    y: (value) => height * (1 - part(value)),
    value: (y) => {
      const place = low + (1 - y / height) * (high - low);
      return log ? 10 ** place : place;
    },
  };
}
