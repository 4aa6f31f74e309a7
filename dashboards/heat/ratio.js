// One run's layers divided by those of another, column by column.
/** @import { Tile } from "../types.d.ts" */
import { ABSENT } from "./values.js";

const MOST = 1e30; // the ratio to a norm that is 0
const EMPTY = new Float32Array();

/**
 * The ratio of a tile to another: of each layer the largest value of a column to the largest of the same steps. Columns
 * are those of the tile that joins more steps.
 *
 * @param {Tile} tile
 * @param {{ name: string }[]} layers of `tile`
 * @param {Tile} other
 * @param {{ name: string }[]} others layers of `other`
 * @returns {Tile} Infinity where either is not finite, ABSENT where either has no value
 */
export function ratioOf(tile, layers, other, others) {
  const coarse = tile.about.joined >= other.about.joined ? tile : other;
  const { first, last } = coarse.arrays;
  const places = new Map(others.map(({ name }, i) => [name, i]));
  const at = layers.map(({ name }) => places.get(name) ?? -1);
  const [own, their] = [maximaOf(tile, first, last), maximaOf(other, first, last)];
  /** @type {number[]} */
  const kept = [];
  for (let column = 0; column < first.length; column++) if (own[column].length) kept.push(column);
  const values = new Float32Array(kept.length * layers.length);
  for (const [row, column] of kept.entries())
    for (const [i, place] of at.entries())
      values[row * layers.length + i] = ratio(own[column][i], their[column][place] ?? ABSENT);
  /** @type {[number, number]} */
  const shape = [kept.length, layers.length];
  const of = (/** @type {Float64Array} */ steps) => Float64Array.from(kept, (column) => steps[column]);
  return {
    about: { ...tile.about, joined: coarse.about.joined },
    arrays: { first: of(first), last: of(last), values: Object.assign(values, { shape }) },
  };
}

/** @param {number} value @param {number} other */
function ratio(value, other) {
  if (value === ABSENT || other === ABSENT) return ABSENT;
  if (value === Infinity || other === Infinity) return Infinity;
  if (value === other) return 1; // two zeros, too
  return Math.min(MOST, value / other);
}

/**
 * The largest value of each layer in each span of steps; an empty array where the tile has no column there.
 *
 * @param {Tile} tile
 * @param {Float64Array} begins
 * @param {Float64Array} ends
 * @returns {Float32Array[]}
 */
function maximaOf({ arrays: { first, last, values } }, begins, ends) {
  const size = values.shape[1];
  const row = (/** @type {number} */ i) => values.subarray(i * size, (i + 1) * size);
  let column = 0;
  return Array.from(begins, (begin, span) => {
    while (column < first.length && last[column] < begin) column++;
    /** @type {Float32Array} */
    let most = EMPTY;
    for (let i = column; i < first.length && first[i] <= ends[span]; i++)
      most = most.length ? larger(most, row(i)) : row(i);
    return most;
  });
}

/** @param {Float32Array} one @param {Float32Array} two */
function larger(one, two) {
  return one.map((value, i) => Math.max(value, two[i]));
}
