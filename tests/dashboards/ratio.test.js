import assert from "node:assert/strict";
import { test } from "node:test";
import { valueText } from "../../dashboards/heat/legend.js";
import { ratioOf } from "../../dashboards/heat/ratio.js";
import { choices, statistic } from "../../dashboards/heat/statistics.js";
import { INITIAL, otherOf } from "../../dashboards/state/state.js";
import { LAYERS, matrix, random, tile } from "./support.js";

const named = (/** @type {string[]} */ ...names) => names.map((name) => ({ name }));

test("each layer is divided by the one of its name, step by step", () => {
  const own = tile("norm", [
    [2, 9, 1],
    [8, 0, -1],
    [5, Infinity, 3],
  ]);
  const theirs = tile("norm", [
    [1, 4],
    [0, 2],
    [7, 5],
  ]);
  const { values, first } = ratioOf(own, named("a", "b", "c"), theirs, named("b", "a")).arrays;
  assert.deepEqual([...first], [0, 1, 2]);
  assert.deepEqual([...values], [0.5, 9, -1, 4, 1, -1, 1, Infinity, -1]);
  assert.deepEqual(values.shape, [3, 3]);
});

test("where one run has joined steps, the largest of the same steps are compared", () => {
  const next = random(4);
  const norms = Array.from({ length: 64 }, () => [1 + next()]);
  const others = Array.from({ length: 64 }, () => [1 + next()]);
  const joined = tile(
    "norm",
    Array.from({ length: 16 }, (_, i) => [Math.max(...others.slice(4 * i, 4 * i + 4).flat())]),
  );
  joined.about.joined = 4;
  joined.arrays.first = Float64Array.from({ length: 16 }, (_, i) => 4 * i);
  joined.arrays.last = Float64Array.from({ length: 16 }, (_, i) => 4 * i + 3);
  const layers = named("a");
  const told = ratioOf(tile("norm", norms), layers, joined, layers);
  const back = ratioOf(joined, layers, tile("norm", norms), layers);
  assert.equal(told.about.joined, 4);
  for (let i = 0; i < 16; i++) {
    const most = Math.max(...norms.slice(4 * i, 4 * i + 4).flat());
    const expected = Math.fround(most) / joined.arrays.values[i];
    assert(Math.abs(told.arrays.values[i] / expected - 1) < 1e-6);
    assert(Math.abs(back.arrays.values[i] * expected - 1) < 1e-6);
  }
});

test("steps that one run alone has are unknown, or no column", () => {
  const layers = named("a");
  const short = tile("norm", [[1]]);
  const long = tile("norm", [[2], [2]]);
  assert.deepEqual([...ratioOf(long, layers, short, layers).arrays.values], [2, -1]);
  assert.deepEqual([...ratioOf(short, layers, long, layers).arrays.values], [0.5]);
  const empty = { ...short, arrays: { ...short.arrays, first: new Float64Array(), values: matrix([]) } };
  assert.equal(ratioOf(empty, layers, long, layers).arrays.first.length, 0);
});

test("a ratio is told as a power of two", () => {
  assert.equal(valueText(2, statistic("against")), "+1 (× 2)");
  assert.equal(valueText(0.25, statistic("against")), "-2 (× 0.25)");
  assert.equal(valueText(1, statistic("against")), "0 (× 1)");
  assert.equal(valueText(-1, statistic("against")), "not in both runs");
});

test("a ratio is on offer if another run is drawn, the one that was chosen or the first", () => {
  assert(!choices(LAYERS).includes("against"));
  assert(choices({ ...LAYERS, other: true }).includes("against"));
  const state = { ...INITIAL, slots: ["a", null, "b", "c"], focus: "b" };
  assert.equal(otherOf(state), "a");
  assert.equal(otherOf({ ...state, against: "c" }), "c");
  assert.equal(otherOf({ ...state, against: "gone" }), "a");
  assert.equal(otherOf({ ...state, against: "b" }), "a", "not itself");
  assert.equal(otherOf({ ...state, slots: ["b"] }), null);
});
