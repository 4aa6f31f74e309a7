// The distribution of norms in numbers: of the steps in view, and what a threshold would clip of them.
/** @import { Distribution, Range } from "../types.d.ts" */

const EPS = 1e-6; // as in torch.nn.utils.clip_grad_norm_

/**
 * @typedef {object} Norms of some steps
 * @property {number} first step
 * @property {number} last step
 * @property {number} finite steps with a finite norm
 * @property {number} unknown steps whose norm is NaN, infinite or not recorded
 * @property {number} zeros steps whose norm is 0
 * @property {Float64Array} norms the value that stands for each bin, ascending
 * @property {Float64Array} counts steps in each bin
 * @property {number} accuracy the largest error of a norm, as a share of it
 */

/**
 * The norms of a range: of all spans that hold one of its steps. Null if none of them has a finite norm.
 *
 * @param {Distribution} distribution
 * @param {Range} range
 * @returns {Norms | null}
 */
export function normsIn({ about, arrays }, [from, to]) {
  const { first, last, unknown, zeros, norms, counts } = arrays;
  const spans = [...first.keys()].filter((i) => last[i] >= from && first[i] <= to);
  if (!spans.length) return null;
  const sum = new Float64Array(norms.length);
  for (const span of spans) for (let i = 0; i < sum.length; i++) sum[i] += counts[span * sum.length + i];
  const of = (/** @type {Float64Array} */ all) => spans.reduce((total, span) => total + all[span], 0);
  const finite = sum.reduce((total, count) => total + count, of(zeros));
  if (!finite) return null;
  return {
    first: first[spans[0]],
    last: last[spans[spans.length - 1]],
    finite,
    unknown: of(unknown),
    zeros: of(zeros),
    norms,
    counts: sum,
    accuracy: about.accuracy,
  };
}

/**
 * What a threshold would do to all steps. As `clipped` says, a norm that is not finite changes the gradients, too.
 *
 * @param {Norms} norms
 * @param {number} threshold
 * @returns {{ clipped: number, coef: number }} the share clipped, and the mean clip_coef where the norm is finite
 */
export function effectOf({ norms, counts, zeros, finite, unknown }, threshold) {
  let [clipped, coef] = [unknown, 0];
  const add = (/** @type {number} */ norm, /** @type {number} */ steps) => {
    const factor = threshold / (norm + EPS);
    if (factor < 1) clipped += steps;
    coef += steps * Math.min(1, factor);
  };
  add(0, zeros);
  for (let i = 0; i < norms.length; i++) add(norms[i], counts[i]);
  return { clipped: clipped / (finite + unknown), coef: coef / finite };
}

/**
 * A quantile: the norm of the step in that place, the steps sorted by norm.
 *
 * @param {Norms} norms
 * @param {number} part from 0 to 1
 */
export function quantileOf({ norms, counts, zeros, finite }, part) {
  const place = part * (finite - 1);
  let below = zeros;
  if (place < below) return 0;
  for (let i = 0; i < norms.length; i++) {
    below += counts[i];
    if (place < below) return norms[i];
  }
  return norms[norms.length - 1] ?? 0;
}

/**
 * Bars on an axis, from its lower end up; what lies beyond its ends is counted apart. A bar is as high as a bin at
 * least.
 *
 * @param {Norms} norms
 * @param {{ height: number, y: (norm: number) => number }} axis
 * @param {number} least px
 * @returns {{ bars: { top: number, tall: number, count: number, low: number, high: number }[], below: number,
 *   above: number }} the bars that hold a step; `low` and `high` are the least and the largest norm in each
 */
export function barsOf({ norms, counts, zeros, accuracy }, { height, y }, least) {
  const bin = y(1) - y((1 + accuracy) / (1 - accuracy));
  const tall = Math.max(least, bin);
  /** @type {Map<number, { top: number, tall: number, count: number, low: number, high: number }>} */
  const bars = new Map();
  let [below, above] = [zeros, 0];
  for (let i = 0; i < norms.length; i++) {
    if (!counts[i]) continue;
    const place = y(norms[i]);
    if (place > height) below += counts[i];
    else if (place < 0) above += counts[i];
    else {
      const at = Math.floor((height - place) / tall);
      const bar = bars.get(at) ?? { top: height - (at + 1) * tall, tall, count: 0, low: norms[i], high: norms[i] };
      bars.set(at, { ...bar, count: bar.count + counts[i], high: norms[i] });
    }
  }
  return { bars: [...bars.values()], below, above };
}
