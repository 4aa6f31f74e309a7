// Asks a source for what a state needs, in the order in which a reader looks at it.
/** @import { Advice, Distribution, Layers, Magnitudes, Other, Query, Range, Rows } from "../types.d.ts" */
/** @import { Scatter, Series, Source, State, Tile } from "../types.d.ts" */
/** @import { Sentinels } from "../heat/sentinels.js" */
/** @import { Found, Story } from "./pieces.js" */

import { sentinelTiles } from "../heat/sentinels.js";
import { offered, statistic } from "../heat/statistics.js";
import { layerShown } from "../magnitudes/layer.js";
import { findEvent } from "../state/events.js";
import { steady } from "../state/memo.js";
import { wholeRange } from "../state/range.js";
import { drawn, queryOf } from "../state/state.js";
import { Kept } from "./kept.js";
import { Pieces } from "./pieces.js";
import { Tiles } from "./tiles.js";

/**
 * What has arrived so far. Each piece is there only once it has arrived.
 *
 * @typedef {object} Data
 * @property {Record<string, Found>} overviews by run
 * @property {Record<string, Series>} series by run
 * @property {Record<string, Scatter>} scatter by run, once the plot was open
 * @property {Layers | null} layers of the run in the focus, as are the rest
 * @property {Tile | null} tile the statistic shown, of the steps shown
 * @property {Rows | null} rows of the layers that are inspected
 * @property {Sentinels | null} sentinels updates of a few layers, once one of them may be drawn
 * @property {Magnitudes | null} magnitudes of the chosen layer's entries
 * @property {Distribution | null} distribution of the total norm in the steps shown
 * @property {Tile | null} whole the statistic shown, of all steps
 * @property {Other | null} other the run compared with
 * @property {Story | null} story of the chosen event
 * @property {Advice | null} advice
 * @property {string | null} problem
 */

class Superseded extends Error {}

export class Loader {
  /** @type {Pieces} */ #pieces;
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
    this.#pieces = new Pieces(source, this.#kept);
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

  /** @type {(overviews: Record<string, Found>) => Record<string, Found>} */ #overviews = steady();
  /** @type {(series: Record<string, Series>) => Record<string, Series>} */ #series = steady();
  /** @type {(scatter: Record<string, Scatter>) => Record<string, Scatter>} */ #scatter = steady();

  /** @param {State} state @param {number} columns @param {(news: Partial<Data>) => void} tell */
  async #inOrder(state, columns, tell) {
    if (state.focus === null) return;
    const names = drawn(state);
    const query = queryOf(state, state.focus);
    const found = await Promise.all(names.map((name) => this.#pieces.overview(queryOf(state, name))));
    const overviews = this.#overviews(Object.fromEntries(names.map((name, i) => [name, found[i]])));
    tell({ overviews, problem: overviews[state.focus].error });
    if (overviews[state.focus].error !== null) return;

    const whole = wholeRange(found.flatMap(({ overview }) => overview ?? []));
    const [from, to] = state.zoom ?? whole;
    const readable = names.filter((name) => overviews[name].error === null);
    const queries = Object.fromEntries(readable.map((name) => [name, queryOf(state, name)]));
    tell({ series: this.#series(await ofEach(queries, (one) => this.#pieces.series(one, from, to, columns))) });
    if (state.plot)
      tell({ scatter: this.#scatter(await ofEach(queries, (one) => this.#pieces.scatter(one, from, to))) });

    const other = this.#tiles.comparable(state, overviews);
    const layers = this.#tiles.offered(await this.#pieces.layers(query), other !== null);
    tell({ layers });
    const stat = offered(state.stat, layers);
    const ends = { whole, part: state.zoom && /** @type {Range} */ ([from, to]) };
    if (stat !== null && statistic(stat).against && other !== null)
      await this.#compare(query, layers, other, ends, columns, tell);
    else if (stat !== null) tell(await this.#tiles.of(query, stat, ends, columns));
    await this.#chosen(state, stat, layers, query, [from, to], columns, tell);
    tell({ distribution: await this.#pieces.distribution(query, from, to) });
    const event = findEvent(overviews[state.focus].overview, state.event);
    if (event) tell({ story: await this.#pieces.story(query, event, layers.stats.includes("norm"), columns) });
    tell({ advice: await this.#pieces.advice(query) });
  }

  /**
   * What is shown of the layers that the reader has chosen.
   *
   * @param {State} state
   * @param {string | null} stat
   * @param {Layers} layers
   * @param {Query} query
   * @param {Range} range
   * @param {number} columns
   * @param {(news: Partial<Data>) => void} tell
   */
  async #chosen(state, stat, layers, query, range, columns, tell) {
    if (state.inspected.length) tell({ rows: await this.#pieces.rows(state.inspected, layers, query, range, columns) });
    const few = sentinelTiles(state, stat, layers);
    if (few.length) tell({ sentinels: await this.#pieces.sentinels(few, query, range, columns) });
    const shown = layers.magnitudes ? layerShown(state.layer, layers) : null;
    if (shown !== null) tell({ magnitudes: await this.#pieces.magnitudes(shown, query, range) });
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
}

/**
 * An answer for each run, asked for at once.
 *
 * @template Answer
 * @param {Record<string, Query>} queries by run
 * @param {(query: Query) => Promise<Answer>} ask
 * @returns {Promise<Record<string, Answer>>}
 */
async function ofEach(queries, ask) {
  const answers = await Promise.all(Object.entries(queries).map(async ([name, query]) => [name, await ask(query)]));
  return Object.fromEntries(answers);
}
