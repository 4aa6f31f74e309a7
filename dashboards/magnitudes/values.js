// The entries of one gradient by magnitude: bins on an axis, and the limits of number formats on it.
/** @import { Magnitudes } from "../types.d.ts" */
import { sampleAt } from "../state/columns.js";

export const SMALLEST = -24; // powers of two: the smallest number of float16
export const NORMAL = -14; // its smallest normal number
export const LARGEST = Math.log2(65504); // its largest number

/** @typedef {{ name: string, log2: number, scaled: boolean }} Limit `scaled`: it holds for what a GradScaler multiplies */

/** @type {Limit[]} */
export const LIMITS = [
  { name: "fp16 largest 65,504", log2: LARGEST, scaled: true },
  { name: "fp16 smallest normal 2^-14", log2: NORMAL, scaled: true },
  { name: "fp16 smallest 2^-24", log2: SMALLEST, scaled: true },
  { name: "bf16 smallest normal 2^-126", log2: -126, scaled: false },
  { name: "bf16 largest 3.4e38", log2: 128, scaled: false },
];

const WIDE = 12; // px: a bin that stands alone
const NARROW = 6; // px
const GAP = 4; // px

/** @typedef {{ bin: number, name: string, text: string, top: number, tall: number }} Band a bin as a line of the picture */

/**
 * The bins from the top down: NaN, infinity, the largest magnitudes to the smallest, zero.
 *
 * @param {string[]} bins names, each the lower end
 * @returns {{ bands: Band[], height: number }}
 */
export function bandsOf(bins) {
  const last = bins.length - 4; // the bin of the largest magnitudes
  const order = [bins.length - 1, bins.length - 2, ...Array.from({ length: last + 1 }, (_, i) => last - i), last + 1];
  let top = 0;
  const bands = order.map((bin) => {
    const alone = bin > last || bin === last || bin < 2;
    if (bin === last || bin === last + 1) top += GAP;
    const band = { bin, name: bins[bin], text: binText(bins, bin), top, tall: alone ? WIDE : NARROW };
    top += band.tall;
    return band;
  });
  return { bands, height: top };
}

/** A bin in words. @param {string[]} bins @param {number} bin */
export function binText(bins, bin) {
  const name = bins[bin];
  if (bin === 0) return `below ${bins[1]}`;
  if (!name.startsWith("2^")) return name;
  const next = bins[bin + 1];
  return next.startsWith("2^") ? `${name} to ${next}` : `from ${name} on`;
}

/** The power of two that a bin begins with. @param {string[]} bins @param {number} bin */
function exponentOf(bins, bin) {
  return bin === 0 ? -Infinity : Number(bins[bin].slice(2));
}

/**
 * Where a magnitude lies, in pixels from above. Within a bin the axis is even; beyond its ends there is only the end.
 *
 * @param {string[]} bins
 * @param {Band[]} bands
 * @param {number} log2
 */
export function placeOf(bins, bands, log2) {
  const last = bins.length - 4;
  let bin = last;
  while (bin > 0 && exponentOf(bins, bin) > log2) bin--;
  const band = /** @type {Band} */ (bands.find((one) => one.bin === bin));
  const low = Math.max(-149, exponentOf(bins, bin));
  const high = bin === last ? 128 : exponentOf(bins, bin + 1);
  const part = Math.max(0, Math.min(1, (log2 - low) / (high - low)));
  return band.top + (1 - part) * band.tall;
}

/**
 * The shares of one sample's entries in each bin; null if the parameter had no gradient.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} sample
 * @returns {{ counts: number[], all: number } | null}
 */
export function countsAt({ arrays: { counts } }, sample) {
  const [, , size] = counts.shape;
  const own = [...counts.subarray(sample * size, (sample + 1) * size)];
  if (own.some(Number.isNaN)) return null;
  return { counts: own, all: own.reduce((sum, one) => sum + one, 0) };
}

/**
 * The sample that holds at a step, or -1.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} step
 * @param {number} lastStep of the run
 */
export function sampleOf({ arrays: { step: steps } }, step, lastStep) {
  return sampleAt({ first: steps, last: steps }, step, lastStep);
}

/**
 * The loss scale at a sample; 1 if there was none, and for a limit that it does not move.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} sample
 */
export function scaleAt({ arrays: { loss_scale: scales } }, sample) {
  return scales[sample] > 0 && scales[sample] < Infinity ? scales[sample] : 1;
}

/**
 * How many entries are smaller than a power of two; of the bin that it lies in, the same share as of the bin's width.
 *
 * @param {Magnitudes} magnitudes
 * @param {number[]} counts
 * @param {number} log2
 */
export function below({ about: { bins } }, counts, log2) {
  let sum = 0;
  for (let bin = 0; bin < bins.length - 3; bin++) {
    const low = exponentOf(bins, bin);
    const high = bin === bins.length - 4 ? 128 : exponentOf(bins, bin + 1);
    if (high <= log2) sum += counts[bin];
    else if (low < log2) sum += counts[bin] * ((log2 - Math.max(-149, low)) / (high - Math.max(-149, low)));
  }
  return sum;
}
