// The state as the fragment of an address, so that a link or a reload leads back to what was shown.
/** @import { Brush, Range, State } from "../types.d.ts" */
import { INITIAL } from "./state.js";

const PLAIN = /** @type {const} */ ([
  "stat",
  "order",
  "depth",
  "filter",
  "layer",
  "event",
  "trial",
  "pin",
  "against",
  "plot",
  "tint",
  "find",
  "kind",
  "sort",
]);

/**
 * What differs from the initial state, as `name=value&...`.
 *
 * @param {State} state
 * @returns {string}
 */
export function encoded(state) {
  const query = new URLSearchParams();
  for (const name of state.slots) query.append("run", name ?? "");
  if (state.focus !== null && state.slots[0] !== state.focus) query.set("focus", state.focus);
  const optimizer = state.optimizers[state.focus ?? ""];
  if (optimizer !== undefined) query.set("optimizer", optimizer);
  if (state.zoom) query.set("steps", state.zoom.map((step) => Number(step.toFixed(2))).join("_"));
  for (const name of PLAIN) {
    const value = state[name];
    if (value !== null && value !== INITIAL[name]) query.set(name, String(value));
  }
  if (state.table) query.set("runs", "table");
  addLists(query, state);
  return query.toString();
}

/**
 * The state that a fragment tells; what it does not tell, or tells wrongly, is as at first.
 *
 * @param {string} text
 * @returns {State}
 */
export function decoded(text) {
  const query = new URLSearchParams(text);
  const slots = query.getAll("run").map((name) => name || null);
  const focus = query.get("focus") ?? slots[0] ?? null;
  const optimizer = query.get("optimizer");
  const string = (/** @type {"stat" | "order" | "filter" | "plot" | "tint" | "find" | "kind" | "sort"} */ name) =>
    query.get(name) ?? INITIAL[name];
  return {
    slots,
    focus,
    optimizers: focus !== null && optimizer !== null ? { [focus]: optimizer } : {},
    zoom: rangeOf(query.get("steps")),
    stat: string("stat"),
    order: string("order"),
    depth: positive(query.get("depth")) ?? 0,
    filter: string("filter"),
    layer: query.get("layer"),
    against: query.get("against"),
    inspected: query.getAll("inspect"),
    event: query.get("event"),
    trial: positive(query.get("trial")),
    pin: query.has("pin") ? (positive(query.get("pin")) ?? 0) : null,
    wholeAxis: query.get("axis") === "whole",
    values: Object.fromEntries(query.getAll("y").flatMap(valuesOf)),
    plot: string("plot"),
    tint: string("tint"),
    brush: brushOf(query.get("brush")),
    find: string("find"),
    kind: string("kind"),
    table: query.get("runs") === "table",
    tables: query.get("tables") === "shown",
    sort: string("sort"),
  };
}

/** @param {URLSearchParams} query @param {State} state */
function addLists(query, { inspected, wholeAxis, values, brush, tables }) {
  if (tables) query.set("tables", "shown");
  if (brush) query.set("brush", brush.join("_"));
  for (const name of inspected) query.append("inspect", name);
  if (wholeAxis) query.set("axis", "whole");
  for (const [chart, ends] of Object.entries(values)) query.append("y", [chart, ...ends.map(shortest)].join("_"));
}

/** Six digits of a number: more than a drag tells. @param {number} value */
function shortest(value) {
  return Number(value.toPrecision(6));
}

/** The ends of a chart's y axis. @param {string} text @returns {[chart: string, ends: Range][]} */
function valuesOf(text) {
  const [chart, ...ends] = text.split("_");
  const range = rangeOf(ends.join("_"));
  return range ? [[chart, range]] : [];
}

/** @param {string | null} text @returns {Brush | null} */
function brushOf(text) {
  const [left, right, low, high, more] = (text ?? "").split("_").map(Number);
  const sides = [left, right, low, high];
  const valid = more === undefined && sides.every(Number.isFinite) && left <= right && low <= high;
  return valid ? [left, right, low, high] : null;
}

/** @param {string | null} text @returns {Range | null} */
function rangeOf(text) {
  const [from, to] = (text ?? "").split("_").map(Number);
  return Number.isFinite(from) && Number.isFinite(to) && from < to ? [from, to] : null;
}

/** @param {string | null} text */
function positive(text) {
  const value = Number(text);
  return Number.isFinite(value) && value > 0 ? value : null;
}
