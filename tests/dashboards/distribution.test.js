import assert from "node:assert/strict";
import { test } from "node:test";
import { longEffectText, percentiles } from "../../dashboards/distribution/text.js";
import { barsOf, effectOf, normsIn, quantileOf } from "../../dashboards/distribution/values.js";
import { inForceIn } from "../../dashboards/state/thresholds.js";
import { distribution, random, series } from "./support.js";

/** @param {number[]} given @returns {import("../../dashboards/distribution/values.js").Norms} */
const normsOf = (...given) => {
  const found = normsIn(distribution(given), [-0.5, given.length - 0.5]);
  assert(found);
  return found;
};

test("a range has the norms of all spans that hold one of its steps, and says which steps they are", () => {
  const spans = distribution([1, 1, 2], [2, NaN, 0], [4, 4, Infinity]);
  const found = normsIn(spans, [2.5, 4.5]);
  assert(found);
  assert.deepEqual([found.first, found.last, found.finite, found.unknown, found.zeros], [3, 5, 2, 1, 1]);
  assert.deepEqual([...found.counts], [0, 1, 0]);
  assert.equal(normsIn(spans, [-0.5, 8.5])?.finite, 7);
  assert.equal(normsIn(spans, [20, 30]), null);
  assert.equal(normsIn(distribution([NaN, Infinity]), [-0.5, 1.5]), null, "no finite norm");
  assert.equal(normsIn(distribution(), [0, 1]), null);
});

test("a threshold's effect is that of clip_grad_norm_ on each step, and its mean of those with a finite norm", () => {
  const next = random(5);
  const all = Array.from({ length: 300 }, () => (next() < 0.1 ? 0 : 10 ** (6 * next() - 3)));
  const norms = normsOf(...all, NaN, NaN, Infinity);
  for (const threshold of [1e-9, 1e-3, 0.1, 1, 30, 1e9]) {
    const coefs = all.map((norm) => Math.min(1, threshold / (norm + 1e-6)));
    const { clipped, coef } = effectOf(norms, threshold);
    assert.equal(clipped, (coefs.filter((one) => one < 1).length + 3) / (all.length + 3));
    assert(Math.abs(coef - coefs.reduce((sum, one) => sum + one, 0) / all.length) < 1e-9);
  }
});

test("quantiles are norms of steps, zeros included", () => {
  const norms = normsOf(0, 0, 1, 2, 8);
  assert.deepEqual(
    [0, 0.25, 0.5, 0.75, 1].map((part) => quantileOf(norms, part)),
    [0, 0, 1, 2, 8],
  );
  assert.equal(quantileOf(normsOf(0, 0), 0.5), 0);
  assert.deepEqual(percentiles(norms)[0], ["least", "0"]);
  assert.deepEqual(percentiles(norms).at(-1), ["largest", "8"]);
});

test("every step is in one bar, or beyond an end of the axis", () => {
  const next = random(7);
  const all = Array.from({ length: 500 }, () => (next() < 0.05 ? 0 : 10 ** (6 * next() - 3)));
  const axis = { height: 150, y: (/** @type {number} */ norm) => 75 - 37.5 * Math.log10(norm) }; // 0.01 to 100
  const { bars, below, above } = barsOf(normsOf(...all), axis, 4);
  assert.equal(below, all.filter((norm) => norm < 0.01).length);
  assert.equal(above, all.filter((norm) => norm > 100).length);
  assert.equal(
    bars.reduce((sum, bar) => sum + bar.count, below + above),
    all.length,
  );
  for (const { top, tall, low, high, count } of bars) {
    assert.equal(all.filter((norm) => norm >= low && norm <= high).length, count);
    for (const norm of [low, high]) assert(axis.y(norm) >= top - 1e-9 && axis.y(norm) <= top + tall + 1e-9);
  }
  assert(new Set(bars.map((bar) => bar.top)).size === bars.length);
});

test("the effect in words says of which steps, and how many have no norm", () => {
  const text = longEffectText(normsOf(1, 2, 4, NaN), 2, "in force");
  assert.equal(
    text,
    "2 (in force) clips 75% of 4 steps (steps 0 to 3, 1 step without a finite norm); mean clip_coef 0.833",
  );
});

test("the threshold in force is the last one in view", () => {
  const steps = series(4, { "max_norm.high": [1, 2, NaN, 5] });
  assert.equal(inForceIn(steps, [-0.5, 3.5]), 5);
  assert.equal(inForceIn(steps, [-0.5, 2.5]), 2);
  assert.equal(inForceIn(series(3), [-0.5, 2.5]), null);
});
