// The statistics of layers: what each is called, and on which scale it is shown.
/** @import { Layers } from "../types.d.ts" */

/**
 * @typedef {object} Statistic
 * @property {string} label
 * @property {boolean} [log]
 * @property {[low: number, high: number]} [ends] of the colour scale; from the data if left out
 * @property {"around"} [colours] around a level rather than from low to high
 * @property {string} [of] the statistic it is computed from
 * @property {boolean} [against] another run that is drawn; told as powers of two
 * @property {boolean} [share] of a layer's entries
 * @property {boolean} [ranks] of processes rather than layers
 * @property {boolean} [sampled] not at every step: a value holds until the next one
 * @property {string} absent what it means that there is no value
 */

/** @type {Record<string, Statistic>} */
const STATISTICS = {
  norm: { label: "gradient norm", log: true, absent: "no gradient" },
  relative: {
    label: "norm / the layer's own median",
    log: true,
    ends: [0.01, 100],
    colours: "around",
    of: "norm",
    absent: "no gradient, or a median of 0",
  },
  against: {
    label: "norm / that of another run, log2",
    log: true,
    ends: [1 / 16, 16],
    colours: "around",
    of: "norm",
    against: true,
    absent: "not in both runs",
  },
  abs_max: { label: "largest entry (abs_max)", log: true, absent: "no gradient" },
  zeros: { label: "share of zero entries (zeros)", ends: [0, 1], share: true, absent: "no gradient" },
  nonfinite: { label: "NaN or infinite entries (nonfinite)", log: true, absent: "no gradient" },
  update_ratio: {
    label: "update_ratio, sampled",
    log: true,
    sampled: true,
    absent: "not sampled, or weights are zero",
  },
  weight_norm: { label: "norm of the weights (weight_norm), sampled", log: true, sampled: true, absent: "not sampled" },
  rms_ratio: {
    label: "rms_ratio (gradient / root of second moment)",
    log: true,
    sampled: true,
    absent: "not read, or no second moment",
  },
  norm_share: {
    label: "share of the squared norm",
    ends: [0, 1],
    share: true,
    absent: "no gradient, or a total that is not finite",
  },
  rank_norm: { label: "norm of each rank", log: true, ranks: true, absent: "no gradient" },
  rank_nonfinite: { label: "NaN or infinite entries of each rank", log: true, ranks: true, absent: "no gradient" },
  rank_differing: { label: "gradients that differ from other ranks", log: true, ranks: true, absent: "no gradient" },
};

/**
 * How a statistic is shown.
 *
 * @param {string} stat
 */
export function statistic(stat) {
  return STATISTICS[stat];
}

/**
 * The recorded statistic that one is computed from.
 *
 * @param {string} stat
 */
export function sourceOf(stat) {
  return STATISTICS[stat].of ?? stat;
}

/**
 * The statistics that a run can be shown by.
 *
 * @param {Layers} layers
 */
export function choices({ stats, other }) {
  const held = (/** @type {string} */ stat) => stats.includes(sourceOf(stat));
  return Object.keys(STATISTICS).filter((stat) => held(stat) && (other || !STATISTICS[stat].against));
}

/**
 * The statistic itself if the run has it, else the first one that it has; null if it has none.
 *
 * @param {string} stat
 * @param {Layers} layers
 */
export function offered(stat, layers) {
  const all = layers.layers.length ? choices(layers) : [];
  return all.includes(stat) ? stat : (all[0] ?? null);
}
