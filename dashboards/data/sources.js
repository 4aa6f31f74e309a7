// The two places the page gets its runs from: a server, or the file it is in. Both answer the same questions.
/** @import { Advice, Distribution, Layers, Listing, Magnitudes, Overview, Query, Scatter, Source, Tile } from "../types.d.ts" */
import { layerOf } from "../magnitudes/layer.js";
import { narrowed, rowsOf } from "./rows.js";
import { unpack, unpackEmbedded, widened } from "./unpack.js";

/**
 * Asks the GradWatch plugin of a TensorBoard, or `gradwatch view`.
 *
 * @param {string} base the address below which it answers
 * @returns {Source}
 */
export function served(base) {
  /** @param {string} route @param {object} query */
  const ask = async (route, query) => {
    const response = await fetch(`${base}${route}?${new URLSearchParams(Object.entries(query))}`).catch(() => {
      throw new Error("The server does not answer: it was ended, or the network is gone. Start it again and reload.");
    });
    if (response.ok) return response;
    throw new Error(await reason(response));
  };
  /** @param {string} route @param {object} query */
  const json = async (route, query) => (await ask(route, query)).json();
  /** @param {string} route @param {object} query */
  const packed = async (route, query) => unpack(await (await ask(route, query)).arrayBuffer());
  return {
    live: true,
    several: true,
    list: () => json("runs", {}),
    overview: (query) => json("overview", query),
    layers: (query) => json("layers", query),
    advice: (query) => json("advice", query),
    parting: (query, other) => json("parting", { ...query, other }),
    series: async (query, from, to, columns) => (await packed("series", { ...query, from, to, columns })).arrays,
    distribution: async (query, from, to, columns) =>
      /** @type {Distribution} */ (await packed("distribution", { ...query, from, to, columns })),
    scatter: async (query, from, to, points) =>
      /** @type {Scatter} */ (await packed("scatter", { ...query, from, to, columns: points })),
    rows: async (query, layers, from, to, columns) =>
      rowsOf(await packed("rows", { ...query, layers: layers.join(), from, to, columns })),
    tile: async (query, stat, from, to, columns) =>
      /** @type {Tile} */ (await packed("tile", { ...query, stat, from, to, columns })),
    magnitudes: async (query, layer, from, to, columns) =>
      /** @type {Magnitudes} */ (await packed("magnitudes", { ...query, layers: layer, from, to, columns })),
  };
}

/** @param {Response} response */
async function reason(response) {
  try {
    return (await response.json()).message;
  } catch {
    return `${response.status} ${response.statusText}`; // a proxy answered, not the plugin
  }
}

/**
 * @typedef {object} Carried
 * @property {Overview} overview
 * @property {Layers} layers
 * @property {Advice} advice
 * @property {string} series
 * @property {string} distribution
 * @property {string} scatter
 * @property {string | null} magnitudes
 * @property {Record<string, string>} tiles
 */

/**
 * Answers from the data of an HTML report: one run with one or more of its optimizers, or the worst of many runs with
 * one each, at one resolution.
 *
 * @param {{ list: Listing, runs: Record<string, Record<string, Carried>> }} data
 * @returns {Source}
 */
export function carried({ list, runs }) {
  /** @param {Query} query @returns {string[]} */
  const names = ({ run }) => {
    if (run in runs) return Object.keys(runs[run]);
    throw new Error(`Of ${run} this file has only the row in the table. \`gradwatch report\` shows the whole run.`);
  };
  /** @param {Query} query @returns {[run: string, optimizer: string]} */
  const name = (query) => {
    const known = names(query);
    return [query.run, query.optimizer !== undefined && known.includes(query.optimizer) ? query.optimizer : known[0]];
  };
  /** @param {Query} query */
  const part = (query) => {
    const [run, optimizer] = name(query);
    return runs[run][optimizer];
  };
  const series = kept((run, optimizer) => unpackEmbedded(runs[run][optimizer].series));
  const distribution = kept((run, optimizer) => unpackEmbedded(runs[run][optimizer].distribution));
  const scatter = kept((run, optimizer) => unpackEmbedded(runs[run][optimizer].scatter));
  const magnitudes = kept((run, optimizer) => unpackEmbedded(runs[run][optimizer].magnitudes ?? ""));
  const tile = kept(async (run, optimizer, stat) => {
    const { about, arrays } = await unpackEmbedded(runs[run][optimizer].tiles[stat]);
    return { about, arrays: { first: arrays.first, last: arrays.last, values: widened(arrays.values) } };
  });
  return {
    live: false,
    several: list.runs.length > 1,
    list: async () => list,
    overview: async (query) => ({ ...part(query).overview, optimizers: names(query) }),
    layers: async (query) => part(query).layers,
    advice: async (query) => part(query).advice,
    parting: () => Promise.reject(new Error("a file compares no runs")),
    series: async (query) => (await series(...name(query))).arrays,
    distribution: async (query) => /** @type {Distribution} */ (await distribution(...name(query))),
    scatter: async (query) => /** @type {Scatter} */ (await scatter(...name(query))),
    rows: async (query, layers) => {
      const stats = part(query).layers.stats.filter((stat) => !stat.startsWith("rank_"));
      const tiles = await Promise.all(stats.map((stat) => tile(...name(query), stat)));
      return narrowed(Object.fromEntries(stats.map((stat, i) => [stat, tiles[i]])), layers);
    },
    tile: (query, stat) => tile(...name(query), stat),
    magnitudes: async (query, layer) => layerOf(/** @type {Magnitudes} */ (await magnitudes(...name(query))), layer),
  };
}

/**
 * Keeps the result for each list of arguments, so that nothing is unpacked twice.
 *
 * @template Result
 * @param {(...given: string[]) => Promise<Result>} compute
 * @returns {(...given: string[]) => Promise<Result>}
 */
function kept(compute) {
  /** @type {Map<string, Promise<Result>>} */
  const results = new Map();
  return (...given) => {
    const key = JSON.stringify(given);
    const result = results.get(key) ?? compute(...given);
    results.set(key, result);
    return result;
  };
}
