// The two places the page gets its runs from: a server, or the file it is in. Both answer the same questions.
/** @import { Advice, Layers, Listing, Overview, Source, Tile } from "../types.d.ts" */
import { unpack, unpackEmbedded, widened } from "./unpack.js";

/**
 * Asks the GradWatch plugin of a TensorBoard.
 *
 * @param {string} base the address below which the plugin answers
 * @returns {Source}
 */
export function served(base) {
  /** @param {string} route @param {object} query */
  const ask = async (route, query) => {
    const response = await fetch(`${base}${route}?${new URLSearchParams(Object.entries(query))}`);
    if (response.ok) return response;
    throw new Error(await reason(response));
  };
  /** @param {string} route @param {object} query */
  const json = async (route, query) => (await ask(route, query)).json();
  /** @param {string} route @param {object} query */
  const packed = async (route, query) => unpack(await (await ask(route, query)).arrayBuffer());
  return {
    live: true,
    list: () => json("runs", {}),
    overview: (query) => json("overview", query),
    layers: (query) => json("layers", query),
    advice: (query) => json("advice", query),
    series: async (query, from, to, columns) => (await packed("series", { ...query, from, to, columns })).arrays,
    tile: async (query, stat, from, to, columns) =>
      /** @type {Tile} */ (await packed("tile", { ...query, stat, from, to, columns })),
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
 * Answers from the data of an HTML report: one run, at one resolution.
 *
 * @param {{ list: Listing, overview: Overview, layers: Layers, advice: Advice, series: string, tiles: Record<string, string> }} data
 * @returns {Source}
 */
export function carried(data) {
  const series = unpackEmbedded(data.series);
  /** @type {Record<string, Promise<Tile>>} */
  const tiles = {};
  /** @param {string} stat */
  const tile = async (stat) => {
    const { about, arrays } = await unpackEmbedded(data.tiles[stat]);
    return { about, arrays: { first: arrays.first, last: arrays.last, values: widened(arrays.values) } };
  };
  return {
    live: false,
    list: async () => data.list,
    overview: async () => data.overview,
    layers: async () => data.layers,
    advice: async () => data.advice,
    series: async () => (await series).arrays,
    tile: (_, stat) => {
      tiles[stat] ??= tile(stat);
      return tiles[stat];
    },
  };
}
