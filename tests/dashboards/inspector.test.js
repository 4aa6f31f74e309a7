import assert from "node:assert/strict";
import { test } from "node:test";
import { narrowed, rowsOf } from "../../dashboards/data/rows.js";
import { allDigits } from "../../dashboards/draw/text.js";
import {
  copyText,
  inspectedLines,
  neighbourStep,
  positionsOf,
  sentinelsAmong,
  valuesAtStep,
  withNames,
} from "../../dashboards/inspector/values.js";
import { LAYERS, matrix, random, tile } from "./support.js";

const { layers } = LAYERS;

test("layers are found in the order in which they were chosen, those of another run left out", () => {
  assert.deepEqual(positionsOf(["head.weight", "gone", "encoder.0.weight"], layers), [2, 0]);
  const many = Array.from({ length: 9 }, (_, i) => ({ name: `${i}` }));
  assert.equal(
    positionsOf(
      many.map(({ name }) => name),
      many,
    ).length,
    6,
  );
  assert.deepEqual(withNames(["a"], ["b", "a"]), ["a", "b"]);
  assert.equal(
    withNames(
      ["a"],
      many.map(({ name }) => name),
    ).length,
    6,
  );
});

test("an answer of the server becomes a tile for each statistic", () => {
  const [first, last] = [Float64Array.of(0, 2), Float64Array.of(1, 3)];
  const arrays = { "norm.first": first, "norm.last": last, "norm.values": matrix([[1], [2]]) };
  const { norm } = rowsOf({ about: { joined: { norm: 2 } }, arrays });
  assert.equal(norm.about.joined, 2);
  assert.deepEqual([...norm.arrays.values], [1, 2]);
});

test("a file takes the layers out of its tiles, with their shares of the squared norm where a column is a step", () => {
  const whole = tile("norm", [
    [3, -1, 4],
    [1, Infinity, 1],
    [0, 0, 0],
  ]);
  const { norm, norm_share: share } = narrowed({ norm: whole }, [2, 1]);
  assert.deepEqual([...norm.arrays.values], [4, -1, 1, Infinity, 0, 0]);
  assert.deepEqual([...share.arrays.values], [Math.fround(0.64), -1, -1, -1, -1, -1]);
  assert.deepEqual(share.arrays.values.shape, [3, 2]);
  const joined = { ...whole, about: { stat: "norm", joined: 4 } };
  assert.deepEqual(Object.keys(narrowed({ norm: joined }, [0])), ["norm"]);
});

test("each layer is a line of its own colour; a statistic without a value has none", () => {
  const rows = {
    norm: tile("norm", [
      [1, 5],
      [2, -1],
    ]),
    abs_max: tile("abs_max", [[-1, -1]]),
  };
  const two = [layers[0], layers[2]];
  const lines = inspectedLines(rows, "norm", two, "light");
  assert.deepEqual(
    lines.map(({ label, high }) => [label, ...high]),
    [
      ["encoder.0.weight", 1, 2],
      ["head.weight", 5, NaN],
    ],
  );
  assert.notEqual(lines[0].colour, lines[1].colour);
  assert.deepEqual(inspectedLines(rows, "abs_max", two, "light"), []);
  assert.deepEqual(inspectedLines(rows, "zeros", two, "light"), []);
  const counts = (/** @type {number} */ count) => ({
    nonfinite: tile("nonfinite", [
      [0, 0],
      [0, count],
    ]),
  });
  assert.equal(inspectedLines(counts(0), "nonfinite", two, "light").length, 0, "zero everywhere");
  assert.equal(inspectedLines(counts(3), "nonfinite", two, "light").length, 2);
  assert.deepEqual(inspectedLines(rows, "norm", [layers[0]], "light"), [], "the rows of other layers");
});

test("values at a step have all digits, and say of which steps they are", () => {
  const sampled = tile("weight_norm", [[7]]);
  const rows = {
    norm: { ...tile("norm", [[0.1], [Infinity], [-1]]), about: { stat: "norm", joined: 1 } },
    zeros: tile("zeros", [[1], [2], [4]]),
    weight_norm: sampled,
  };
  rows.norm.arrays = { ...rows.norm.arrays, last: Float64Array.of(0, 1, 5) };
  const at = (/** @type {number} */ step) => valuesAtStep(rows, [layers[0]], step, 5);
  assert.deepEqual(at(0)[0], { stat: "norm", when: "step 0", cells: ["0.1"] });
  assert.deepEqual(at(1)[0].cells, ["not finite"]);
  assert.deepEqual(at(2)[0], { stat: "norm", when: "largest of steps 2 to 5", cells: ["no gradient"] });
  assert.deepEqual(at(1)[1].cells, ["0.5"], "a share of the layer's four entries");
  assert.deepEqual(at(5)[2], { stat: "weight_norm", when: "step 0", cells: ["7"] }, "a sample holds");
  assert.deepEqual(at(9)[0].cells, ["–"], "beyond the run");
});

test("arrows move by a column and stop at the ends", () => {
  const rows = { norm: tile("norm", [[1], [2], [3]]) };
  assert.deepEqual(
    [
      [1, 1],
      [1, -1],
      [0, -1],
      [2, 1],
    ].map(([step, by]) => neighbourStep(rows, step, by)),
    [2, 0, 0, 2],
  );
});

test("what is copied has a line for each statistic and no stray tabs", () => {
  const values = [{ stat: "norm", when: "step 3", cells: ["0.1", "2"] }];
  const named = ["a\tb", "c"].map((name) => ({ name, numel: 1, median: null }));
  assert.equal(copyText(values, named), "statistic\tsteps\ta b\tc\nnorm\tstep 3\t0.1\t2");
});

test("all digits are as few as give the same float32 again", () => {
  const next = random(3);
  assert.equal(allDigits(Math.fround(0.1)), "0.1");
  assert.equal(allDigits(Math.fround(16777217)), "16777216");
  for (let i = 0; i < 2000; i++) {
    const value = Math.fround((next() - 0.5) * 10 ** (60 * next() - 30));
    assert.equal(Math.fround(Number(allDigits(value))), value);
  }
});

test("the update of a sentinel is a line at each step, and has a row of its own in the table", () => {
  const [, , third] = layers;
  const few = tile("sentinel_rms_ratio", [[5], [6], [7]]);
  few.about.positions = [2];
  const inspected = [layers[0].name, third.name];
  const lines = sentinelsAmong(inspected, LAYERS, { sentinel_rms_ratio: few });
  assert.deepEqual([lines.rms_ratio[0], [...(lines.rms_ratio[1]?.high ?? [])]], [null, [5, 6, 7]]);
  assert.deepEqual(lines.update_ratio, [null, null]);
  const all = tile("rms_ratio", [[1, 5]]);
  const rows = { rms_ratio: all };
  const drawn = inspectedLines(rows, "rms_ratio", [layers[0], third], "light", lines);
  assert.deepEqual(
    drawn.map(({ label, high }) => [label, high.length]),
    [
      [layers[0].name, 1],
      [`${third.name}, each step`, 3],
    ],
  );
  const told = valuesAtStep(rows, [layers[0], third], 1, 2, lines);
  assert.deepEqual(told[1], { stat: "rms_ratio, computed, each step", when: "step 1", cells: ["no sentinel", "6"] });
  assert.deepEqual(told[0].when, "step 0");
});
