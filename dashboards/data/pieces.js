// The single pieces that the page shows, each asked for once.
/** @import { Layers, Overview, Query, Range, RunEvent, Series, Source, Tile } from "../types.d.ts" */
/** @import { Kept } from "./kept.js" */
import { positionsOf } from "../inspector/values.js";
import { memo, steady } from "../state/memo.js";
import { AROUND } from "../story/story.js";

const SAMPLES = 400; // of a histogram: more would not fit beside one another
const POINTS = 4000; // of a scatter plot: more would only hide one another

/** @typedef {{ overview: Overview, error: null } | { overview: null, error: string }} Found */

/** @typedef {{ tile: Tile | null, series: Series }} Story every step around an event; no tile without layers */

export class Pieces {
  /** @type {Source} */ #source;
  /** @type {Kept} */ #kept;

  /** @param {Source} source @param {Kept} kept */
  constructor(source, kept) {
    this.#source = source;
    this.#kept = kept;
  }

  /** @param {Query} query @returns {Promise<Found>} */
  async overview(query) {
    try {
      const found = async () => ({ overview: await this.#source.overview(query), error: null });
      return await this.#kept.ask(`overview of ${query.run}`, query, found);
    } catch (error) {
      return { overview: null, error: /** @type {Error} */ (error).message };
    }
  }

  /** @param {Query} query @param {number} from @param {number} to @param {number} columns */
  series(query, from, to, columns) {
    const key = { ...query, from, to, columns };
    return this.#kept.ask(`series of ${query.run}`, key, () => this.#source.series(query, from, to, columns));
  }

  /** @param {Query} query @param {number} from @param {number} to */
  scatter(query, from, to) {
    const key = { ...query, from, to };
    return this.#kept.ask(`scatter of ${query.run}`, key, () => this.#source.scatter(query, from, to, POINTS));
  }

  /** @param {Query} query */
  layers(query) {
    return this.#kept.ask("layers", query, () => this.#source.layers(query));
  }

  /** @param {Query} query */
  advice(query) {
    return this.#kept.ask("advice", query, () => this.#source.advice(query));
  }

  /** @param {Query} query @param {number} from @param {number} to */
  distribution(query, from, to) {
    const key = { ...query, from, to };
    return this.#kept.ask("distribution", key, () => this.#source.distribution(query, from, to, 1));
  }

  /** @param {string[]} names @param {Layers} all @param {Query} query @param {Range} range @param {number} columns */
  rows(names, { layers }, query, [from, to], columns) {
    const chosen = positionsOf(names, layers);
    if (!chosen.length) return null;
    const key = { ...query, chosen, from, to, columns };
    return this.#kept.ask("rows", key, () => this.#source.rows(query, chosen, from, to, columns));
  }

  /**
   * The tiles of the sentinels.
   *
   * @param {string[]} stats
   * @param {Query} query
   * @param {Range} range
   * @param {number} columns
   */
  async sentinels(stats, query, [from, to], columns) {
    const key = { ...query, from, to, columns };
    const ask = (/** @type {string} */ stat) =>
      this.#kept.ask(stat, key, () => this.#source.tile(query, stat, from, to, columns));
    const tiles = await Promise.all(stats.map(ask));
    return this.#few(Object.fromEntries(stats.map((stat, i) => [stat, tiles[i]])));
  }

  /** @type {(tiles: Record<string, Tile>) => Record<string, Tile>} */ #few = steady();

  /** @param {number} layer @param {Query} query @param {Range} range */
  magnitudes(layer, query, [from, to]) {
    const key = { ...query, layer, from, to };
    return this.#kept.ask("magnitudes", key, () => this.#source.magnitudes(query, layer, from, to, SAMPLES));
  }

  /**
   * Every step around an event.
   *
   * @param {Query} query
   * @param {RunEvent} event
   * @param {boolean} layers whether their norms were recorded
   * @param {number} columns
   * @returns {Promise<Story>}
   */
  async story(query, { step }, layers, columns) {
    const [from, to] = [step - AROUND - 0.5, step + AROUND + 0.5];
    const key = { ...query, from, to };
    const { series: ask, tile } = this.#source;
    const [series, norms] = await Promise.all([
      this.#kept.ask("story", key, () => ask(query, from, to, columns)),
      layers ? this.#kept.ask("story of layers", key, () => tile(query, "norm", from, to, columns)) : null,
    ]);
    return this.#told(series, norms);
  }

  #told = memo((/** @type {Series} */ series, /** @type {Tile | null} */ tile) => ({ series, tile }));
}
