import assert from "node:assert/strict";
import { test } from "node:test";
import { beginning, nearestPoint } from "../../dashboards/state/thresholds.js";
import { random } from "./support.js";

/** @param {number} threshold @param {string | null} [label] */
const point = (threshold, label = null) => ({
  threshold,
  clipped_fraction: 0,
  mean_clip_coef: 1,
  worst_clip_coef: 1,
  label,
});

test("the nearest threshold is nearest by ratio", () => {
  const curve = [0.01, 1, 100].map((threshold) => point(threshold));
  assert.equal(nearestPoint(curve, 0.2), 1, "0.2 is 5 times below 1, and 20 times above 0.01");
  assert.equal(nearestPoint(curve, 0.05), 0);
  assert.deepEqual(
    [1e-9, 1e9].map((threshold) => nearestPoint(curve, threshold)),
    [0, 2],
  );
});

test("every threshold of a curve is nearest to itself", () => {
  const next = random(2);
  const curve = Array.from({ length: 50 }, () => point(10 ** (8 * next() - 4)));
  for (const [i, { threshold }] of curve.entries()) assert.equal(nearestPoint(curve, threshold), i);
});

test("the slider begins at the recommended threshold, else at the one in force", () => {
  assert.equal(beginning([point(1), point(2, "in force"), point(3, "recommended")]), 2);
  assert.equal(beginning([point(1), point(2, "in force")]), 1);
  assert.equal(beginning([point(1), point(2)]), 0);
});
