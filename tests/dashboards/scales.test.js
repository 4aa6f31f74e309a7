import assert from "node:assert/strict";
import { test } from "node:test";
import { colourScale, decades, ends, extent, smallestPositive } from "../../dashboards/draw/scales.js";
import { random } from "./support.js";

test("the scale ends at percentiles, so that one explosion does not flatten the rest", () => {
  const values = Float32Array.from({ length: 10_000 }, (_, i) => 10 ** (i / 1000)); // over ten decades
  values[5000] = 1e30;
  const [low, high] = extent(values);
  assert.ok(Math.abs(Math.log10(low) - 0.1) < 0.002, String(low));
  assert.ok(Math.abs(Math.log10(high) - 9.95) < 0.002, String(high));
});

test("the scale of a large table costs little more than sorting it as numbers", () => {
  const next = random(1);
  const values = Float32Array.from({ length: 300_000 }, () => 10 ** (6 * next() - 3));
  /** @param {() => unknown} work the shortest of three times */
  const cost = (work) => {
    const times = [1, 2, 3].map(() => {
      const began = process.cpuUsage().user;
      work();
      return process.cpuUsage().user - began;
    });
    return Math.min(...times);
  };
  const sorting = cost(() => Float32Array.from(values).sort());
  assert(cost(() => extent(values)) < 5 * sorting, "boxed numbers take ten times as long");
});

test("values that lie close together still get two decades", () => {
  const [low, high] = extent(Float32Array.of(2, 2, 2));
  assert.deepEqual([low.toPrecision(3), high.toPrecision(3)], ["0.200", "20.0"]);
});

test("neither zero, nor what stands for no value or no finite value, decides where the scale ends", () => {
  assert.deepEqual(extent(Float32Array.of(-1, 0, Infinity, 2, -1)), extent(Float32Array.of(2)));
  assert.deepEqual(extent(Float32Array.of(-1, Infinity, 0)), [0.1, 10]);
  assert.deepEqual(extent(new Float32Array(0)), [0.1, 10]);
});

test("the ends of any values are the percentiles of a plain sort", () => {
  const next = random(3);
  const values = Float64Array.from({ length: 997 }, () => 10 ** (12 * next() - 6));
  const sorted = [...values].sort((a, b) => a - b);
  assert.deepEqual(extent(values), [sorted[Math.round(0.01 * 996)], sorted[Math.round(0.995 * 996)]]);
});

test("colours go from 0 at the low end to 255 at the high end, in equal ratios", () => {
  const scaled = colourScale(0.01, 100, true);
  assert.deepEqual([0, 0.001, 0.01, 1.02, 100, 1e9].map(scaled), [0, 0, 0, 128, 255, 255]);
  const linear = colourScale(0, 1, false);
  assert.deepEqual([0, 0.5, 1, 2].map(linear), [0, 128, 255, 255]);
});

test("a scale of one value has colours", () => {
  assert.equal(colourScale(1, 1, true)(1), 0);
  assert.equal(colourScale(1, 1, true)(2), 255);
});

test("an axis over many decades has at most six ticks, at whole powers", () => {
  for (const [low, high] of [
    [-3, 3],
    [-0.9, 19.2],
    [-45, 38],
  ]) {
    const ticks = decades(low, high);
    assert.ok(ticks.length >= 2 && ticks.length <= 6, String(ticks));
    assert.ok(ticks.every((tick) => Number.isInteger(tick) && tick >= low && tick <= high));
  }
});

test("an axis within a decade has ticks between its ends", () => {
  const ticks = decades(Math.log10(1.2), Math.log10(4.5));
  assert.deepEqual(
    ticks.map((tick) => 10 ** tick).map((value) => +value.toPrecision(3)),
    [2],
  );
  assert.ok(decades(0.01, 0.2).length >= 2);
});

test("ends and the smallest positive value leave NaN out", () => {
  assert.deepEqual(ends([NaN, 3, -1, NaN]), [-1, 3]);
  assert.deepEqual(ends([NaN]), [Infinity, -Infinity]);
  assert.equal(smallestPositive([NaN, 0, -2, 3, 0.5]), 0.5);
  assert.equal(smallestPositive([0]), 1);
});
