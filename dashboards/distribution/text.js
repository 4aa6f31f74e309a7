// The distribution of norms, and what a threshold would do, in words.
/** @import { Norms } from "./values.js" */
import { count, number, share, steps } from "../draw/text.js";
import { effectOf, quantileOf } from "./values.js";

const QUANTILES = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1];

/**
 * What a threshold would do, in short.
 *
 * @param {Norms} norms
 * @param {number} threshold
 * @param {string} label what the threshold is, if it is not just tried
 */
export function effectText(norms, threshold, label) {
  const { clipped } = effectOf(norms, threshold);
  return `${number(threshold)}${label && ` (${label})`} clips ${share(clipped)}`;
}

/**
 * What a threshold would do, and of which steps.
 *
 * @param {Norms} norms
 * @param {number} threshold
 * @param {string} label
 */
export function longEffectText(norms, threshold, label) {
  const { coef } = effectOf(norms, threshold);
  return `${effectText(norms, threshold, label)} of ${stepsText(norms)}; mean clip_coef ${number(coef)}`;
}

/** @param {Norms} norms */
export function stepsText({ first, last, finite, unknown }) {
  const without = unknown ? `, ${count(unknown, "step")} without a finite norm` : "";
  return `${count(finite + unknown, "step")} (${steps(first, last)}${without})`;
}

/**
 * Percentiles, for a table.
 *
 * @param {Norms} norms
 * @returns {[name: string, norm: string][]}
 */
export function percentiles(norms) {
  return QUANTILES.map((part) => {
    const name = part === 0 ? "least" : part === 1 ? "largest" : `p${Math.round(100 * part)}`;
    return [name, number(quantileOf(norms, part))];
  });
}
