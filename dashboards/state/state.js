// What the reader has chosen to see. A state is never changed: each function returns the next one.
/** @import { Listing, Query, State } from "../types.d.ts" */

export const MOST_RUNS = 6; // drawn at once: as many colours can be told apart

/** @type {State} */
export const INITIAL = {
  slots: [],
  focus: null,
  optimizers: {},
  zoom: null,
  stat: "norm",
  order: "model",
  depth: 0,
  filter: "",
  layer: null,
  inspected: [],
  against: null,
  event: null,
  trial: null,
  pin: null,
  wholeAxis: false,
  values: {},
  plot: "",
  tint: "step",
  brush: null,
  find: "",
  kind: "all",
  table: false,
  tables: false,
  sort: "",
};

/**
 * The names of the runs drawn.
 *
 * @param {State} state
 * @returns {string[]}
 */
export function drawn(state) {
  return state.slots.filter((name) => name !== null);
}

/**
 * Names what is shown of a run.
 *
 * @param {State} state
 * @param {string} run
 * @returns {Query}
 */
export function queryOf(state, run) {
  const optimizer = state.optimizers[run];
  return optimizer === undefined ? { run } : { run, optimizer };
}

/**
 * The run that the one in the focus is compared with: the one chosen if it is drawn, else the first other one.
 *
 * @param {State} state
 * @returns {string | null}
 */
export function otherOf(state) {
  const others = drawn(state).filter((name) => name !== state.focus);
  return state.against !== null && others.includes(state.against) ? state.against : (others[0] ?? null);
}

/**
 * Drops runs that no longer exist. If none is left, takes the first one of the list that can be read.
 *
 * @param {State} state
 * @param {Listing} listing
 * @returns {State}
 */
export function afterListing(state, { runs }) {
  if (!runs.length) return { ...state, slots: [], focus: null };
  const names = new Set(runs.map((run) => run.name));
  const slots = state.slots.map((name) => (name !== null && names.has(name) ? name : null));
  const left = slots.filter((name) => name !== null);
  if (!left.length) return focused({ ...state, slots: [] }, (runs.find((run) => !run.error) ?? runs[0]).name);
  if (state.focus !== null && left.includes(state.focus)) return { ...state, slots };
  return focused({ ...state, slots }, left[0]);
}

/**
 * Draws a run or stops drawing it; the others keep their colours. The last one stays, and so do all if `MOST_RUNS` are
 * drawn.
 *
 * @param {State} state
 * @param {string} name
 * @returns {State}
 */
export function toggled(state, name) {
  const names = drawn(state);
  if (!names.includes(name)) {
    if (names.length >= MOST_RUNS) return state;
    return { ...state, slots: placed(state.slots, name) };
  }
  if (names.length === 1) return state;
  const slots = state.slots.map((one) => (one === name ? null : one));
  const next = { ...state, slots };
  return state.focus === name ? focused(next, /** @type {string} */ (slots.find((one) => one !== null))) : next;
}

/**
 * Puts a run in the focus: beside the others if it is drawn already, else instead of them.
 *
 * @param {State} state
 * @param {string} name
 * @returns {State}
 */
export function focused(state, name) {
  if (name === state.focus && state.slots.includes(name)) return state;
  const beside = state.slots.includes(name);
  return {
    ...state,
    focus: name,
    slots: beside ? state.slots : [name],
    zoom: beside ? state.zoom : null,
    event: null,
    trial: null,
  };
}

/**
 * Shows another optimizer of the run in the focus.
 *
 * @param {State} state
 * @param {string} optimizer
 * @returns {State}
 */
export function withOptimizer(state, optimizer) {
  if (state.focus === null) return state;
  return { ...state, optimizers: { ...state.optimizers, [state.focus]: optimizer }, trial: null };
}

/** @param {(string | null)[]} slots @param {string} name */
function placed(slots, name) {
  const free = slots.indexOf(null);
  return free < 0 ? [...slots, name] : slots.with(free, name);
}
