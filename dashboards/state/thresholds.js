// Finding a threshold among those whose consequences are known.
/** @import { Range, Series, WhatIf } from "../types.d.ts" */

/**
 * The point whose threshold is nearest by ratio.
 *
 * @param {WhatIf[]} curve not empty
 * @param {number} threshold
 */
export function nearestPoint(curve, threshold) {
  const distance = (/** @type {number} */ i) => Math.abs(Math.log(curve[i].threshold) - Math.log(threshold));
  let best = 0;
  for (let i = 1; i < curve.length; i++) if (distance(i) < distance(best)) best = i;
  return best;
}

/**
 * The last threshold in force in a range of steps; null if the run did not clip there.
 *
 * @param {Series} series
 * @param {Range} range
 */
export function inForceIn({ first, "max_norm.high": thresholds }, [, to]) {
  for (let i = first.length - 1; i >= 0; i--)
    if (first[i] <= to && Number.isFinite(thresholds[i])) return thresholds[i];
  return null;
}

/**
 * The point to begin with: the recommended threshold, else the one in force, else the first.
 *
 * @param {WhatIf[]} curve
 */
export function beginning(curve) {
  const labelled = (/** @type {string} */ label) => curve.findIndex((point) => point.label === label);
  const recommended = labelled("recommended");
  return recommended >= 0 ? recommended : Math.max(0, labelled("in force"));
}
