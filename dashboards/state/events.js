// Events: their order, their identity, and which of them get a mark if there is room for only a few.
/** @import { Overview, RunEvent, Severity } from "../types.d.ts" */

/** @type {Severity[]} from the mildest to the gravest */
export const SEVERITIES = ["info", "warning", "critical"];

/** @param {RunEvent} event */
export function gravity(event) {
  return SEVERITIES.indexOf(event.severity);
}

/**
 * Names an event, so that it can be found again after a reload.
 *
 * @param {RunEvent} event
 */
export function eventKey(event) {
  const attempt = event.attempt ? [event.attempt] : [];
  return [event.step, event.kind, event.optimizer, event.parameter ?? "", ...attempt].join(" ");
}

/**
 * What to say of an event whose step a later attempt made again; empty of any other.
 *
 * @param {RunEvent} event
 */
export function madeAgain({ attempt = 0, made_again_by: later }) {
  return later === undefined ? "" : `of attempt ${attempt}, made again by attempt ${later}`;
}

/**
 * The event with a key.
 *
 * @param {Overview | null} overview
 * @param {string | null} key
 * @returns {RunEvent | null}
 */
export function findEvent(overview, key) {
  if (key === null) return null;
  return overview?.events.find((event) => eventKey(event) === key) ?? null;
}

/**
 * The event before or after one, by steps; from none to the last or the first one. Null beyond the ends.
 *
 * @param {RunEvent[]} events
 * @param {RunEvent | null} from
 * @param {number} by -1 or 1
 * @returns {RunEvent | null}
 */
export function neighbour(events, from, by) {
  const inOrder = [...events].sort((a, b) => a.step - b.step);
  const at = from ? inOrder.indexOf(from) + by : by > 0 ? 0 : inOrder.length - 1;
  return inOrder[at] ?? null;
}

/**
 * The gravest event; of equally grave ones the first. Null if there is none.
 *
 * @param {RunEvent[]} events
 */
export function gravest(events) {
  return events.reduce(
    (/** @type {RunEvent | null} */ best, event) => (!best || gravity(event) > gravity(best) ? event : best),
    null,
  );
}

/**
 * The events to mark on an axis, the mildest first, so that a graver mark is drawn over a milder one. An event has no
 * mark of its own if a graver one, or an earlier one of the same severity, lies within `gap`. The chosen event always
 * has one, and so has the headline: the first of the gravest, which the verdict is about.
 *
 * @param {RunEvent[]} events
 * @param {(step: number) => number} x where a step is
 * @param {number} gap in the unit of `x`
 * @param {RunEvent | null} [chosen]
 * @returns {RunEvent[]}
 */
export function marked(events, x, gap, chosen = null) {
  /** @type {RunEvent[]} */
  const kept = [];
  /** @type {Map<number, number>} places that are taken, by bins as wide as the gap */
  const taken = new Map();
  const headline = gravest(events);
  const rank = (/** @type {RunEvent} */ event) => (event === headline ? SEVERITIES.length : gravity(event));
  const worstFirst = [...events].sort((a, b) => rank(b) - rank(a) || a.step - b.step);
  for (const event of worstFirst) {
    const place = x(event.step);
    const bin = Math.floor(place / gap);
    const near = [bin - 1, bin, bin + 1].some((one) => Math.abs((taken.get(one) ?? Infinity) - place) < gap);
    if (near && event !== chosen) continue;
    taken.set(bin, place);
    kept.push(event);
  }
  const order = (/** @type {RunEvent} */ event) => (event === chosen ? SEVERITIES.length : gravity(event));
  return kept.sort((a, b) => order(a) - order(b));
}

/**
 * The event whose mark is nearest to a place, at most `reach` away; the gravest of those equally near.
 *
 * @param {RunEvent[]} events
 * @param {(step: number) => number} distance from the place to a step
 * @param {number} reach
 * @returns {RunEvent | null}
 */
export function nearestEvent(events, distance, reach) {
  /** @type {RunEvent | null} */
  let best = null;
  let least = reach;
  for (const event of events) {
    const far = Math.abs(distance(event.step));
    if (far > least || (best && far === least && gravity(event) <= gravity(best))) continue;
    best = event;
    least = far;
  }
  return best;
}

/**
 * The optimizer to begin with: the one with the gravest event.
 *
 * @param {Overview} overview
 */
export function optimizerInTrouble({ events, optimizers, optimizer }) {
  const worst = gravest(events);
  return worst && optimizers.includes(worst.optimizer) ? worst.optimizer : optimizer;
}
