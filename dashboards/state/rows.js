// The rows of the heat map: layers filtered, grouped and ordered.
/** @import { Layers } from "../types.d.ts" */

/**
 * A row shows the largest value of its members, which index layers.
 *
 * @typedef {{ name: string, members: number[] }} Row
 */
/** @typedef {{ filter: string, depth: number, order: string }} Arrangement */

/**
 * The layers that match a filter, grouped by the first `depth` parts of their names (0: not grouped).
 *
 * @param {{ name: string }[]} layers
 * @param {number[]} telling all layers, the one that tells most of a fault first
 * @param {Arrangement} arrangement
 * @returns {Row[]}
 * @throws {SyntaxError} if the filter is not a regular expression
 */
export function rowsOf(layers, telling, { filter, depth, order }) {
  const pattern = new RegExp(filter, "i");
  const inOrder = order === "trouble" ? telling : layers.map((_, i) => i);
  /** @type {Map<string, number[]>} */
  const groups = new Map();
  for (const i of inOrder) {
    if (!pattern.test(layers[i].name)) continue;
    const name = depth ? layers[i].name.split(".").slice(0, depth).join(".") : layers[i].name;
    const members = groups.get(name);
    if (members) members.push(i);
    else groups.set(name, [i]);
  }
  return [...groups].map(([name, members]) =>
    members.length > 1 ? { name: `${name} (${members.length})`, members } : { name: layers[members[0]].name, members },
  );
}

/**
 * Whether a filter is a regular expression that a name matches.
 *
 * @param {string} filter
 * @param {string} name
 */
export function passes(filter, name) {
  try {
    return new RegExp(filter, "i").test(name);
  } catch {
    return false;
  }
}

/**
 * The row with a name, or else the row that contains the layer with that name.
 *
 * @param {Row[]} rows
 * @param {{ name: string }[]} layers
 * @param {string | null} name
 * @returns {Row | null}
 */
export function rowNamed(rows, layers, name) {
  if (name === null) return null;
  return (
    rows.find((row) => row.name === name) ??
    rows.find((row) => row.members.some((i) => layers[i].name === name)) ??
    null
  );
}

/**
 * How deep layers can be grouped: the depths on offer, 0 first.
 *
 * @param {{ name: string }[]} layers
 */
export function depths(layers) {
  const deepest = Math.max(1, ...layers.map((layer) => layer.name.split(".").length));
  return [...Array(Math.min(6, deepest)).keys()];
}

/**
 * What has a row: each layer, or for statistics of ranks each process of a distributed training.
 *
 * @param {boolean} ofRanks
 * @param {Layers} about
 * @returns {{ layers: { name: string, numel: number, median?: number | null }[], telling: number[] }}
 */
export function rowSubjects(ofRanks, { layers, ranks, telling }) {
  if (!ofRanks) return { layers, telling };
  const all = [...Array(ranks).keys()];
  return { layers: all.map((rank) => ({ name: `rank ${rank}`, numel: 1 })), telling: all };
}
