// Which steps are shown: zooming and panning, as plain functions.
/** @import { Overview, Range, RunEvent } from "../types.d.ts" */

const FEWEST_STEPS = 4; // shown at once
const FEWEST_AROUND = 40; // steps shown on each side of an event

/**
 * From half a step before the first step of all runs to half a step after the last one.
 *
 * @param {Overview[]} overviews
 * @returns {Range}
 */
export function wholeRange(overviews) {
  if (!overviews.length) return [-0.5, 0.5];
  const first = Math.min(...overviews.map((run) => run.first_step));
  const last = Math.max(...overviews.map((run) => run.last_step));
  return [first - 0.5, last + 0.5];
}

/**
 * The range nearest to `from` and `to` that lies within `whole`; null if that is all of it.
 *
 * @param {number} from
 * @param {number} to
 * @param {Range} whole
 * @returns {Range | null}
 */
export function within(from, to, [first, last]) {
  const width = Math.min(last - first, Math.max(FEWEST_STEPS, to - from));
  if (width >= last - first) return null;
  const begin = Math.min(Math.max(first, (from + to) / 2 - width / 2), last - width);
  return [begin, begin + width];
}

/**
 * Zooms by a factor (below 1: fewer steps), keeping one step where it is.
 *
 * @param {Range} range
 * @param {number} factor
 * @param {number} [around] a step; the middle by default
 * @returns {Range}
 */
export function zoomed([from, to], factor, around = (from + to) / 2) {
  return [around - (around - from) * factor, around + (to - around) * factor];
}

/**
 * Moves by a part of the width: 0.5 is half a screen towards later steps.
 *
 * @param {Range} range
 * @param {number} part
 * @returns {Range}
 */
export function panned([from, to], part) {
  const by = part * (to - from);
  return [from + by, to + by];
}

/**
 * The steps to show for an event, with some before and after it.
 *
 * @param {RunEvent} event
 * @returns {Range}
 */
export function rangeAround(event) {
  return surrounded(event.step, event.until ?? event.step);
}

/**
 * Steps with some before and after them.
 *
 * @param {number} first
 * @param {number} last
 * @returns {Range}
 */
export function surrounded(first, last) {
  const around = Math.max(FEWEST_AROUND, 0.5 * (last - first));
  return [first - around, last + around];
}

/**
 * The first and the last whole step of a range.
 *
 * @param {Range} range
 * @returns {[first: number, last: number]}
 */
export function wholeSteps([from, to]) {
  return [Math.max(0, Math.ceil(from)), Math.floor(to)];
}
