// Every statistic of a few layers, as a server sends it or taken out of whole tiles.
/** @import { Matrix, Rows, Tile } from "../types.d.ts" */

const ABSENT = -1; // as in heat/values.js

/**
 * The tiles in an answer of the server.
 *
 * @param {{ about: { joined: Record<string, number> }, arrays: Record<string, any> }} packed
 * @returns {Rows}
 */
export function rowsOf({ about, arrays }) {
  return Object.fromEntries(
    Object.entries(about.joined).map(([stat, joined]) => {
      const [first, last, values] = ["first", "last", "values"].map((name) => arrays[`${stat}.${name}`]);
      return [stat, { about: { stat, joined }, arrays: { first, last, values } }];
    }),
  );
}

/**
 * The tiles of some layers, and the shares of the squared norm where a column is one step.
 *
 * @param {Record<string, Tile>} tiles of all layers, by statistic
 * @param {number[]} layers positions
 * @returns {Rows}
 */
export function narrowed(tiles, layers) {
  const { norm } = tiles;
  const all = norm?.about.joined === 1 ? { ...tiles, norm_share: sharesOf(norm) } : tiles;
  return Object.fromEntries(Object.entries(all).map(([stat, tile]) => [stat, columnsOf(tile, layers)]));
}

/** @param {Tile} tile @param {number[]} layers @returns {Tile} */
function columnsOf({ about, arrays: { first, last, values } }, layers) {
  const [rows, size] = values.shape;
  const kept = new Float32Array(rows * layers.length);
  for (let row = 0; row < rows; row++)
    for (const [i, layer] of layers.entries()) kept[row * layers.length + i] = values[row * size + layer];
  return { about, arrays: { first, last, values: shaped(kept, rows, layers.length) } };
}

/** As `squared_shares` in gradwatch/views/web/layers.py. @param {Tile} norm @returns {Tile} */
function sharesOf({ about, arrays: { first, last, values } }) {
  const [rows, size] = values.shape;
  const shares = new Float32Array(rows * size).fill(ABSENT);
  for (let row = 0; row < rows; row++) {
    const squares = Float64Array.from(values.subarray(row * size, (row + 1) * size), squared);
    const total = squares.reduce((sum, square) => sum + Math.max(0, square), 0);
    if (!(total > 0 && total < Infinity)) continue;
    shares.set(
      squares.map((square) => (square === ABSENT ? ABSENT : square / total)),
      row * size,
    );
  }
  return { about: { ...about, stat: "norm_share" }, arrays: { first, last, values: shaped(shares, rows, size) } };
}

/** @param {number} value */
function squared(value) {
  return value === ABSENT ? ABSENT : value ** 2;
}

/** @param {Float32Array} values @param {number} rows @param {number} columns @returns {Matrix} */
function shaped(values, rows, columns) {
  /** @type {[number, number]} */
  const shape = [rows, columns];
  return Object.assign(values, { shape });
}
