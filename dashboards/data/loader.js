// Asks a source for what a state needs, in the order in which a reader looks at it.
/** @import { Advice, Distribution, Layers, Other, Overview, Query, Range, Rows } from "../types.d.ts" */
/** @import { RunEvent, Series, Source, State, Tile } from "../types.d.ts" */

import { offered, statistic } from "../heat/statistics.js";
import { positionsOf } from "../inspector/values.js";
import { findEvent } from "../state/events.js";
import { memo } from "../state/memo.js";
import { wholeRange } from "../state/range.js";
import { drawn, queryOf } from "../state/state.js";
import { AROUND } from "../story/story.js";
import { Kept } from "./kept.js";
import { comparable, Tiles } from "./tiles.js";

/** @typedef {{ overview: Overview, error: null } | { overview: null, error: string }} Found */

/** @typedef {{ tile: Tile | null, series: Series }} Story every step around an event; no tile without layers */

/**
 * What has arrived so far. Each piece is there only once it has arrived.
 *
 * @typedef {object} Data
 * @property {Record<string, Found>} overviews by run
 * @property {Record<string, Series>} series by run
 * @property {Layers | null} layers of the run in the focus, as are the rest
 * @property {Tile | null} tile the statistic shown, of the steps shown
 * @property {Rows | null} rows of the layers that are inspected
 * @property {Distribution | null} distribution of the total norm in the steps shown
 * @property {Tile | null} whole the statistic shown, of all steps
 * @property {Other | null} other the run compared with
 * @property {Story | null} story of the chosen event
 * @property {Advice | null} advice
 * @property {string | null} problem
 */

class Superseded extends Error {}

export class Loader {
  /** @type {Source} */ #source;
  /** @type {(news: Partial<Data>) => void} */ #arrived;
  #kept = new Kept();
  #turn = 0;
  /** @type {Tiles} */ #tiles;

  /**
   * @param {Source} source
   * @param {(news: Partial<Data>) => void} arrived is given each piece as it arrives; a later `load` silences earlier
   *   ones
   */
  constructor(source, arrived) {
    this.#source = source;
    this.#tiles = new Tiles(source, this.#kept);
    this.#arrived = arrived;
  }

  /** Makes the next `load` ask for everything again. */
  forget() {
    this.#kept.clear();
    this.#turn++;
  }

  /**
   * Gets what is missing for a state.
   *
   * @param {State} state
   * @param {number} columns how many the page has room for
   */
  async load(state, columns) {
    const turn = ++this.#turn;
    /** @param {Partial<Data>} news */
    const tell = (news) => {
      if (turn !== this.#turn) throw new Superseded();
      this.#arrived(news);
    };
    try {
      await this.#inOrder(state, columns, tell);
    } catch (error) {
      const current = turn === this.#turn && !(error instanceof Superseded);
      if (current) this.#arrived({ problem: /** @type {Error} */ (error).message });
    }
  }

  /** @param {State} state @param {number} columns @param {(news: Partial<Data>) => void} tell */
  async #inOrder(state, columns, tell) {
    if (state.focus === null) return;
    const names = drawn(state);
    const query = queryOf(state, state.focus);
    const found = await Promise.all(names.map((name) => this.#overview(queryOf(state, name))));
    const overviews = Object.fromEntries(names.map((name, i) => [name, found[i]]));
    tell({ overviews, problem: overviews[state.focus].error });
    if (overviews[state.focus].error !== null) return;

    const whole = wholeRange(found.flatMap(({ overview }) => overview ?? []));
    const [from, to] = state.zoom ?? whole;
    const readable = names.filter((name) => overviews[name].error === null);
    const series = await Promise.all(readable.map((name) => this.#series(queryOf(state, name), from, to, columns)));
    tell({ series: Object.fromEntries(readable.map((name, i) => [name, series[i]])) });

    const other = comparable(state, overviews);
    const known = await this.#kept.ask("layers", query, () => this.#source.layers(query));
    const layers = this.#tiles.offered(known, other !== null);
    tell({ layers });
    const stat = offered(state.stat, layers);
    const ends = { whole, part: state.zoom && /** @type {Range} */ ([from, to]) };
    if (stat !== null && statistic(stat).against && other !== null)
      await this.#compare(query, layers, other, ends, columns, tell);
    else if (stat !== null) tell(await this.#tiles.of(query, stat, ends, columns));
    if (state.inspected.length) tell({ rows: await this.#rows(state.inspected, layers, query, [from, to], columns) });
    tell({ distribution: await this.#distribution(query, from, to) });
    const event = findEvent(overviews[state.focus].overview, state.event);
    if (event) tell({ story: await this.#story(query, event, layers.stats.includes("norm"), columns) });
    tell({ advice: await this.#kept.ask("advice", query, () => this.#source.advice(query)) });
  }

  /**
   * @param {Query} query
   * @param {RunEvent} event
   * @param {boolean} layers
   * @param {number} columns
   * @returns {Promise<Story>}
   */
  async #story(query, { step }, layers, columns) {
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

  /** @param {Query} query @returns {Promise<Found>} */
  async #overview(query) {
    try {
      const overview = await this.#kept.ask(`overview of ${query.run}`, query, () => this.#source.overview(query));
      return { overview, error: null };
    } catch (error) {
      return { overview: null, error: /** @type {Error} */ (error).message };
    }
  }

  /** @param {Query} query @param {number} from @param {number} to @param {number} columns */
  #series(query, from, to, columns) {
    const key = { ...query, from, to, columns };
    return this.#kept.ask(`series of ${query.run}`, key, () => this.#source.series(query, from, to, columns));
  }

  /**
   * @param {Query} query
   * @param {Layers} layers
   * @param {Query} theirs
   * @param {import("./tiles.js").Ends} ends
   * @param {number} columns
   * @param {(news: Partial<Data>) => void} tell
   */
  async #compare(query, layers, theirs, ends, columns, tell) {
    const other = await this.#tiles.other(query, theirs);
    tell({ other });
    tell(await this.#tiles.ratios(query, layers, other, theirs, ends, columns));
  }

  /** @param {Query} query @param {number} from @param {number} to */
  #distribution(query, from, to) {
    const key = { ...query, from, to };
    return this.#kept.ask("distribution", key, () => this.#source.distribution(query, from, to, 1));
  }

  /** @param {string[]} names @param {Layers} all @param {Query} query @param {Range} range @param {number} columns */
  #rows(names, { layers }, query, [from, to], columns) {
    const chosen = positionsOf(names, layers);
    if (!chosen.length) return null;
    const key = { ...query, chosen, from, to, columns };
    return this.#kept.ask("rows", key, () => this.#source.rows(query, chosen, from, to, columns));
  }
}
