// The state of the page and the data for it. A new state is shown at once, and what is missing is fetched.
/** @import { Data } from "./data/loader.js" */
/** @import { Listing, Overview, Range, RunEvent, Source, State } from "./types.d.ts" */
import { Loader } from "./data/loader.js";
import { findEvent, optimizerInTrouble } from "./state/events.js";
import { wholeRange, within } from "./state/range.js";
import { afterListing, drawn, INITIAL, withOptimizer } from "./state/state.js";

const AGAIN = 1500; // ms until runs are listed again whose verdicts are still being computed
const SETTLED = 90; // ms without a move, before finer columns are asked for

const OF_A_RUN = {
  layers: null,
  tile: null,
  whole: null,
  distribution: null,
  rows: null,
  sentinels: null,
  magnitudes: null,
  other: null,
  story: null,
  advice: null,
};
/** @type {Data} */
const NOTHING = { overviews: {}, series: {}, scatter: {}, problem: null, ...OF_A_RUN };

export class Session {
  /** @type {State} */ state;
  /** @type {Data} */ data = NOTHING;
  /** @type {Listing | null} */ listing = null;
  /** @type {Source} */ #source;
  /** @type {() => void} */ #changed;
  /** @type {() => number} */ #columns;
  /** @type {Loader} */ #loader;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #settling;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #waiting;

  /**
   * @param {Source} source
   * @param {{ changed: () => void, columns: () => number }} page `changed` draws; `columns` tells how many fit
   * @param {State} [state] to begin with
   */
  constructor(source, { changed, columns }, state = INITIAL) {
    this.state = state;
    this.#source = source;
    this.#changed = changed;
    this.#columns = columns;
    this.#loader = new Loader(source, (news) => this.#arrived(news));
  }

  /** Asks for everything again. */
  async reload() {
    this.#loader.forget();
    if (await this.#list()) await this.become(this.valid(this.state));
  }

  /** Asks for the runs, and again while verdicts are missing. Whether there was an answer. */
  async #list() {
    clearTimeout(this.#waiting);
    try {
      this.listing = await this.#source.list();
    } catch (error) {
      this.data = { ...this.data, problem: /** @type {Error} */ (error).message };
      this.#changed();
      return false;
    }
    if (this.listing.runs.some((run) => run.pending))
      this.#waiting = setTimeout(async () => (await this.#list()) && this.#changed(), AGAIN);
    return true;
  }

  /**
   * A state without runs that don't exist.
   *
   * @param {State} state
   */
  valid(state) {
    return this.listing ? afterListing(state, this.listing) : state;
  }

  /** @returns {Overview | null} of the run in the focus */
  get overview() {
    return this.data.overviews[this.state.focus ?? ""]?.overview ?? null;
  }

  /** @returns {RunEvent | null} the chosen event */
  get event() {
    return findEvent(this.overview, this.state.event);
  }

  /** @returns {Range} the steps shown */
  get range() {
    return this.state.zoom ?? this.whole;
  }

  /** @returns {Range} all steps of the runs drawn */
  get whole() {
    return wholeRange(drawn(this.state).flatMap((name) => this.data.overviews[name]?.overview ?? []));
  }

  /**
   * Shows other steps: those known already at once, and finer columns when the moving is over.
   *
   * @param {Range | null} zoom
   */
  move(zoom) {
    this.state = { ...this.state, zoom };
    this.#changed();
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#load(), SETTLED);
  }

  /**
   * Takes another state, shows what is known already, and gets the rest.
   *
   * @param {State} state
   */
  async become(state) {
    const other = state.focus !== this.state.focus || state.optimizers !== this.state.optimizers;
    if (state.event !== this.state.event) this.data = { ...this.data, story: null };
    if (state.inspected !== this.state.inspected) this.data = { ...this.data, rows: null };
    if (state.layer !== this.state.layer) this.data = { ...this.data, magnitudes: null };
    this.state = state;
    if (other) this.data = { ...this.data, ...OF_A_RUN };
    this.#changed();
    await this.#load();
  }

  async #load() {
    clearTimeout(this.#settling);
    await this.#loader.load(this.state, this.#columns());
  }

  /** @param {Partial<Data>} news */
  #arrived(news) {
    this.data = { ...this.data, ...news };
    if (news.overviews && this.state.zoom) this.state = { ...this.state, zoom: within(...this.state.zoom, this.whole) };
    const { overview, state } = this;
    const undecided = state.focus !== null && state.optimizers[state.focus] === undefined;
    const worst = news.overviews && overview && undecided ? optimizerInTrouble(overview) : null;
    if (worst !== null && worst !== overview?.optimizer) this.become(withOptimizer(state, worst));
    else this.#changed();
  }
}
