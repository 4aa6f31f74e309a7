// The tiles that a state needs: of the run in the focus, or its norms divided by those of another run.
/** @import { Layers, Other, Query, Range, Source, State, Tile } from "../types.d.ts" */
/** @import { Kept } from "./kept.js" */
/** @import { Found } from "./pieces.js" */
import { ratioOf } from "../heat/ratio.js";
import { sourceOf } from "../heat/statistics.js";
import { memo } from "../state/memo.js";
import { otherOf, queryOf } from "../state/state.js";

/** @typedef {{ whole: Range, part: Range | null }} Ends all steps, and those shown if they are fewer */

export class Tiles {
  /** @type {Source} */ #source;
  /** @type {Kept} */ #kept;

  /** @param {Source} source @param {Kept} kept */
  constructor(source, kept) {
    this.#source = source;
    this.#kept = kept;
  }

  /**
   * The layers, which say whether another run is drawn to compare with.
   *
   * @type {(layers: Layers, other: boolean) => Layers}
   */
  offered = memo((layers, other) => (other ? { ...layers, other } : layers));

  /**
   * Names the other run with the optimizer of the one in the focus; null if it has none of that name. A file has each run
   * in columns of its own, which can't be compared.
   *
   * @param {State} state
   * @param {Record<string, Found>} overviews
   * @returns {Query | null}
   */
  comparable(state, overviews) {
    const run = this.#source.live ? otherOf(state) : null;
    const optimizer = overviews[state.focus ?? ""]?.overview?.optimizer;
    const found = run === null ? null : overviews[run]?.overview;
    if (run === null || optimizer === undefined || !found?.optimizers.includes(optimizer)) return null;
    return found.optimizer === optimizer ? queryOf(state, run) : { run, optimizer };
  }

  /**
   * A statistic of all steps, and of those shown.
   *
   * @param {Query} query
   * @param {string} stat
   * @param {Ends} ends
   * @param {number} columns
   * @param {string} [kind]
   */
  async of(query, stat, { whole, part }, columns, kind = "") {
    const all = await this.#tile(`${kind}whole`, query, sourceOf(stat), whole, columns);
    return { whole: all, tile: part ? await this.#tile(`${kind}part`, query, sourceOf(stat), part, columns) : all };
  }

  /**
   * The ratio of the norms to those of another run.
   *
   * @param {Query} query
   * @param {Layers} layers
   * @param {Other} other
   * @param {Query} theirs names the other run
   * @param {Ends} ends
   * @param {number} columns
   */
  async ratios(query, layers, other, theirs, ends, columns) {
    const own = await this.of(query, "norm", ends, columns);
    const below = await this.of(theirs, "norm", ends, columns, "other ");
    const whole = this.#ratios.whole(own.whole, layers, below.whole, other);
    return { whole, tile: ends.part ? this.#ratios.part(own.tile, layers, below.tile, other) : whole };
  }

  #ratios = { whole: ratios(), part: ratios() };

  /**
   * The other run, and where the first one parts from it.
   *
   * @param {Query} query of the first one
   * @param {Query} theirs
   * @returns {Promise<Other>}
   */
  async other(query, theirs) {
    const [layers, parting] = await Promise.all([
      this.#kept.ask("layers of the other", theirs, () => this.#source.layers(theirs)),
      this.#kept.ask("parting", { ...query, other: theirs.run }, () => this.#source.parting(query, theirs.run)),
    ]);
    return this.#told(theirs.run, layers, parting);
  }

  /** @type {(name: string, layers: Layers, parting: Other["parting"]) => Other} */
  #told = memo((name, layers, parting) => ({ name, layers, parting }));

  /** @param {string} kind @param {Query} query @param {string} stat @param {number[]} range @param {number} columns */
  #tile(kind, query, stat, [from, to], columns) {
    const key = { ...query, stat, from, to, columns };
    return this.#kept.ask(kind, key, () => this.#source.tile(query, stat, from, to, columns));
  }
}

/** @returns {(tile: Tile, layers: Layers, other: Tile, run: Other) => Tile} */
function ratios() {
  return memo((tile, layers, other, run) => ratioOf(tile, layers.layers, other, run.layers.layers));
}
