// Where the page has its runs from: a server, or itself. Both answer the same questions.
import { unpack, unpackEmbedded, widened } from "./unpack.js";

/** What the GradWatch plugin of a TensorBoard answers below an address. */
export function served(base) {
  const ask = async (route, query) => {
    const response = await fetch(`${base}${route}?${new URLSearchParams(query)}`);
    if (response.ok) return response;
    let text = `${response.status} ${response.statusText}`;
    try {
      text = (await response.json()).message;
    } catch {
      // not our server's answer; the status says what there is to say
    }
    throw new Error(text);
  };
  const json = async (route, query) => (await ask(route, query)).json();
  const packed = async (route, query) => unpack(await (await ask(route, query)).arrayBuffer());
  return {
    live: true,
    list: () => json("runs", {}),
    overview: (run) => json("overview", run),
    layers: (run) => json("layers", run),
    advice: (run) => json("advice", run),
    series: async (run, from, to, columns) => (await packed("series", { ...run, from, to, columns })).arrays,
    tile: (run, stat, from, to, columns) => packed("tile", { ...run, stat, from, to, columns }),
  };
}

/** What a report carries: one run, at one resolution. */
export function carried(data) {
  const series = unpackEmbedded(data.series);
  const tiles = {};
  const tile = async (stat) => {
    const { about, arrays } = await unpackEmbedded(data.tiles[stat]);
    return { about, arrays: { ...arrays, values: widened(arrays.values) } };
  };
  return {
    live: false,
    list: async () => data.list,
    overview: async () => data.overview,
    layers: async () => data.layers,
    advice: async () => data.advice,
    series: async () => (await series).arrays,
    tile: (run, stat) => (tiles[stat] ??= tile(stat)),
  };
}
