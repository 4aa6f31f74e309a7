// Steps at which something was NaN or infinite.
/** @import { BadSpan, Series } from "../types.d.ts" */

/**
 * The steps at which the gradient or the loss was not finite.
 *
 * @param {Series} series
 * @param {"nonfinite" | "loss.bad"} counts the series that counts such steps
 * @returns {BadSpan[]}
 */
export function badSpans(series, counts) {
  const infinite = counts === "nonfinite" ? series.infinite : null; // it is not recorded whether a loss was infinite
  return spansOf(series.first, series.last, series[counts], infinite);
}

/**
 * Stretches of columns that follow each other.
 *
 * @param {Float64Array} first
 * @param {Float64Array} last
 * @param {Float64Array} bad at how many steps of a column the value was not finite
 * @param {Float64Array | null} [infinite] at how many it was infinite
 * @returns {BadSpan[]}
 */
export function spansOf(first, last, bad, infinite = null) {
  /** @type {BadSpan[]} */
  const spans = [];
  for (let i = 0; i < bad.length; i++) {
    if (!(bad[i] > 0)) continue;
    const before = spans.at(-1);
    const now = infinite !== null && infinite[i] > 0;
    if (before && before.last + 1 >= first[i] && before.infinite === now) before.last = last[i];
    else spans.push({ first: first[i], last: last[i], infinite: now });
  }
  return spans;
}
