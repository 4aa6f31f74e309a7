// The values of a tile as they are shown: divided by what the statistic is relative to.
/** @import { Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */

export const ABSENT = -1; // no value; Infinity stands for NaN and infinity (gradwatch/views/web/pyramid.py)

/** @typedef {(column: number, layer: number) => number} Values */

/**
 * A function from a column and a layer to the value shown there. Infinity and ABSENT stay as they are.
 *
 * @param {Tile} tile
 * @param {string} stat
 * @param {{ numel: number, median?: number | null }[]} layers
 * @returns {Values}
 */
export function valuesOf({ arrays: { values } }, stat, layers) {
  const units = layers.map((layer) => {
    if (stat === "relative") return layer.median || null; // nothing is a multiple of 0
    return stat === "zeros" ? layer.numel || 1 : 1;
  });
  const size = values.shape[1];
  return (column, layer) => {
    const value = values[column * size + layer];
    if (value === Infinity || value === ABSENT) return value;
    const unit = units[layer];
    return unit === null ? ABSENT : value / unit;
  };
}

/**
 * The largest value of a row in a column. NaN and infinity count as larger than everything, no value as smaller.
 *
 * @param {Values} values
 * @param {Row} row
 * @param {number} column
 */
export function largest(values, row, column) {
  let most = -Infinity;
  for (const layer of row.members) {
    const value = values(column, layer);
    if (value > most) most = value;
  }
  return most;
}

/**
 * A row as the line of a chart: the largest finite value of each column, and where one was not finite.
 *
 * @param {Values} values
 * @param {Row} row
 * @param {{ first: Float64Array, last: Float64Array }} columns
 */
export function lineOf(values, row, { first, last }) {
  const bad = new Float64Array(first.length);
  const high = Float64Array.from(first, (_, column) => {
    let most = NaN;
    for (const layer of row.members) {
      const value = values(column, layer);
      if (value === Infinity) bad[column] = 1;
      else if (value !== ABSENT && !(value <= most)) most = value;
    }
    return most;
  });
  return { first, last, high, bad };
}
