// A finding in words. Cause and remedy come from the diagnosis; here is how certain they are, where, and what shows it.
/** @import { Finding } from "../types.d.ts" */
import { number, whole } from "../draw/text.js";

const MOST_NAMES = 3; // parameters named

/**
 * The finding that the verdict is about: the first warning or worse.
 *
 * @param {Finding[]} findings
 * @returns {Finding | null}
 */
export function headline(findings) {
  return findings.find((finding) => finding.severity !== "info") ?? null;
}

/**
 * The first parameters of a finding, and how many more there are.
 *
 * @param {Finding} finding
 */
export function namesOf({ parameters }) {
  return { named: parameters.slice(0, MOST_NAMES), more: Math.max(0, parameters.length - MOST_NAMES) };
}

/**
 * The optimizer and the process that a finding is of; empty where that goes without saying.
 *
 * @param {Finding} finding
 * @param {boolean} several whether the run has several optimizers
 */
export function ownerText({ optimizer, rank }, several) {
  const parts = [several && optimizer !== null ? `optimizer ${optimizer}` : "", rank === null ? "" : `rank ${rank}`];
  return parts.filter(Boolean).join(", ");
}

/**
 * The evidence as pairs of a name, and a value with its unit unless the name says it.
 *
 * @param {Finding} finding
 * @returns {[name: string, value: string][]}
 */
export function evidenceOf({ evidence }) {
  return Object.entries(evidence).map(([name, { value, unit }]) => {
    const known = value === null ? "not known" : valueText(value);
    const words = name.replaceAll("_", " ");
    const isSaid = words.split(" ").some((word) => unit === word || unit === `${word}s`);
    return [words, isSaid ? known : `${known} (${unit})`];
  });
}

/**
 * Counts, such as steps, keep all their digits. A float above 2^53 is an integer as well, but no count.
 *
 * @param {number | string} value
 */
function valueText(value) {
  return Number.isSafeInteger(value) ? whole(Number(value)) : number(value);
}
