// Where things lie, in CSS pixels. All charts and the heat map share their step axis.
export const GUTTER = 150; // left of the charts, for titles and readouts
export const AXIS = 56; // for the labels of the y axis
export const RIGHT = 14; // after the last step

/**
 * How many columns of steps to ask for.
 *
 * @param {number} width of a chart
 */
export function columnsIn(width) {
  return Math.max(50, Math.min(2000, Math.round(width - AXIS - RIGHT)));
}
