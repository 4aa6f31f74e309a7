import assert from "node:assert/strict";
import { test } from "node:test";
import { panned, rangeAround, wholeRange, wholeSteps, within, zoomed } from "../../dashboards/state/range.js";
import { event, overview, random } from "./support.js";

test("the whole range goes over all runs, with half a step on each side", () => {
  const runs = [overview({ first_step: 10, last_step: 99 }), overview({ first_step: 0, last_step: 50 })];
  assert.deepEqual(wholeRange(runs), [-0.5, 99.5]);
  assert.deepEqual(wholeRange([overview({ first_step: 7, last_step: 7 })]), [6.5, 7.5]);
  assert.deepEqual(wholeRange([]), [-0.5, 0.5]);
});

test("whatever is asked for, the range lies within the run and is at least four steps wide", () => {
  const next = random(9);
  for (let i = 0; i < 1000; i++) {
    const range = within(300 * next() - 100, 300 * next() - 100, [-0.5, 99.5]);
    if (range === null) continue;
    assert.ok(range[0] >= -0.5 && range[1] <= 99.5 + 1e-9, String(range));
    assert.ok(range[1] - range[0] >= 4 - 1e-9, String(range));
  }
  assert.equal(within(-50, 150, [-0.5, 99.5]), null);
  assert.equal(within(0, 1, [-0.5, 1.5]), null, "a run of two steps is shown whole");
});

test("zooming keeps its step where it is", () => {
  const [from, to] = zoomed([0, 100], 0.5, 25);
  assert.deepEqual([from, to], [12.5, 62.5]);
  assert.deepEqual(zoomed([0, 100], 2), [-50, 150]);
});

test("panning keeps the width", () => {
  assert.deepEqual(panned([0, 100], -0.25), [-25, 75]);
});

test("the range of an event has steps before and after it, more for a long one", () => {
  assert.deepEqual(rangeAround(event(100)), [60, 140]);
  assert.deepEqual(rangeAround(event(100, { until: 300 })), [0, 400]);
});

test("the steps of a range are whole and not negative", () => {
  assert.deepEqual(wholeSteps([-0.5, 99.5]), [0, 99]);
  assert.deepEqual(wholeSteps([12.2, 15.9]), [13, 15]);
});
