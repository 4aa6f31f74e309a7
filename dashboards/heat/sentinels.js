// The sentinels: few layers whose updates are read at every step, where those of all are read at some steps only.
/** @import { Layers, Line, State, Tile } from "../types.d.ts" */
import { lineOf, valuesOf } from "./values.js";

/** @typedef {Record<string, Tile>} Sentinels by name of the tile */

const PREFIX = "sentinel_"; // of a tile's name, before the statistic

/**
 * The tiles that a state needs.
 *
 * @param {State} state
 * @param {string | null} stat the statistic shown
 * @param {Layers} layers
 */
export function sentinelTiles({ inspected, layer }, stat, { sentinels = [] }) {
  return sentinels.filter((name) => inspected.length > 0 || (layer !== null && name === PREFIX + stat));
}

/**
 * A statistic of a layer's update at every step; null if the layer is no sentinel, or the tile has not arrived.
 *
 * @param {Sentinels | null} sentinels
 * @param {string} stat
 * @param {number} layer its position
 */
export function sentinelLine(sentinels, stat, layer) {
  const tile = sentinels?.[PREFIX + stat];
  const { positions = [] } = tile?.about ?? {};
  const at = positions.indexOf(layer);
  if (!tile || at < 0) return null;
  const few = positions.map(() => ({ numel: 1 }));
  return readings(lineOf(valuesOf(tile, stat, few), { name: stat, members: [at] }, tile.arrays));
}

/**
 * When a statistic of updates is known, in words.
 *
 * @param {number | null | undefined} every steps from one reading to the next
 */
export function readEvery(every) {
  return every && every > 1 ? `every ${every} steps` : "each step";
}

/**
 * A line without the columns between two readings, so that it has no gap where nothing was to be read. A gap that is
 * longer than usual stays.
 *
 * @template {Pick<Line, "first" | "last" | "high" | "low" | "bad">} Drawn
 * @param {Drawn} line
 * @returns {Drawn}
 */
export function readings(line) {
  const { first, high, bad } = line;
  const known = [...first.keys()].filter((i) => Number.isFinite(high[i]) || (bad?.[i] ?? 0) > 0);
  const distances = known.slice(1).map((at, i) => at - known[i]);
  const usual = [...distances].sort((a, b) => a - b)[(distances.length - 1) >> 1] ?? 1;
  if (usual <= 1) return line;
  const kept = known.flatMap((at, i) => (distances[i] > 1.5 * usual ? [at, at + 1] : [at]));
  const only = (/** @type {Float64Array | undefined} */ values) =>
    values && Float64Array.from(kept, (at) => values[at]);
  return { ...line, first: only(first), last: only(line.last), high: only(high), low: only(line.low), bad: only(bad) };
}
