import assert from "node:assert/strict";
import { test } from "node:test";
import { cellColours, palette } from "../../dashboards/draw/colours.js";
import { ABSENT } from "../../dashboards/heat/values.js";
import { neighbour } from "../../dashboards/state/events.js";
import {
  cellsBelow,
  columnsAround,
  orderOfRise,
  replayTold,
  storyRows,
  storyScalars,
} from "../../dashboards/story/story.js";
import { event, series, tile } from "./support.js";

const steps = (/** @type {number[]} */ ...values) => Float64Array.from(values);

test("a story has ten steps on each side of the event, fewer at the ends of a run", () => {
  const all = {
    first: Float64Array.from({ length: 100 }, (_, i) => i),
    last: Float64Array.from({ length: 100 }, (_, i) => i),
  };
  assert.deepEqual(
    columnsAround(all, event(50)).map(({ first }) => first),
    Array.from({ length: 21 }, (_, i) => 40 + i),
  );
  assert.equal(columnsAround(all, event(3)).length, 14);
  assert.deepEqual(columnsAround({ first: steps(), last: steps() }, event(3)), []);
});

test("where a file has joined steps, the columns that hold them are told", () => {
  const joined = { first: steps(0, 16, 32), last: steps(15, 31, 47) };
  assert.deepEqual(columnsAround(joined, event(26)), [
    { first: 16, last: 31, index: 1 },
    { first: 32, last: 47, index: 2 },
  ]);
});

/** @param {number[][]} table (steps, layers) @param {(number | null)[]} medians @param {string | null} [named] */
function told(table, medians, named = null) {
  const norms = tile("norm", table);
  const layers = medians.map((median, i) => ({ name: `layer ${i}`, median }));
  return storyRows(norms, columnsAround(norms.arrays, event(0)), layers, named);
}

test("norms are multiples of the layer's own median, and the last layer comes first, as in the backward pass", () => {
  assert.deepEqual(
    told(
      [
        [2, 30],
        [4, ABSENT],
      ],
      [2, 10],
    ),
    [
      { name: "layer 1", ratios: [3, ABSENT], order: null },
      { name: "layer 0", ratios: [1, 2], order: null },
    ],
  );
});

test("the ten layers that rose most are told, with NaN above everything, and the one that the event names", () => {
  const table = [Array.from({ length: 30 }, (_, layer) => (layer === 3 ? Infinity : layer + 1))];
  const names = told(table, Array(30).fill(1), "layer 5").map(({ name }) => name);
  assert.deepEqual(
    names,
    [29, 28, 27, 26, 25, 24, 23, 22, 5, 3].map((layer) => `layer ${layer}`),
  );
});

test("a layer without a gradient has no part, unless its gradient is not finite", () => {
  assert.deepEqual(
    told([[ABSENT, 1, Infinity]], [null, 1, null]).map(({ name }) => name),
    ["layer 2", "layer 1"],
  );
});

test("a named layer whose median is 0 has no multiples of it", () => {
  assert.deepEqual(told([[3], [ABSENT], [Infinity]], [0], "layer 0"), [
    { name: "layer 0", ratios: [ABSENT, ABSENT, Infinity], order: 1 },
  ]);
});

test("layers are numbered in the order in which they rise, three at most", () => {
  const rows = [
    [1, 1, 9],
    [1, 7, 9],
    [1, 1, 1],
    [6, 1, 1],
    [1, Infinity, 1],
    [1, 1, 5],
  ];
  assert.deepEqual(orderOfRise(rows), [null, 2, null, 1, 3, null]);
  assert.deepEqual(orderOfRise([]), []);
});

test("beside the layers stands what was recorded of the step, and what was not finite", () => {
  const given = series(3, {
    "loss.high": [1, NaN, 3],
    "loss.bad": [0, 1, 0],
    "total_norm.high": [1, 2, 3],
    nonfinite: [0, 0, 4],
  });
  const rows = storyScalars(given, event(1));
  assert.deepEqual(
    rows.map(({ name }) => name),
    ["total_norm", "loss"],
  );
  assert.deepEqual(
    rows[0].values.map(({ bad }) => bad),
    [false, false, true],
  );
  assert.deepEqual(
    rows[1].values.map(({ value }) => value),
    [1, NaN, 3],
  );
  assert.deepEqual(
    rows[1].values.map(({ bad }) => bad),
    [false, true, false],
  );
});

test("text on every colour of both palettes has the contrast that WCAG asks for (AA)", () => {
  /** @param {number[]} channels */
  const luminance = (channels) => {
    const [red, green, blue] = channels.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  for (const theme of /** @type {const} */ (["light", "dark"]))
    for (const colour of palette("around", theme)) {
      const { background, color } = cellColours(colour);
      const light = luminance([...background.matchAll(/\d+/g)].map(Number));
      const contrast = color === "#000000" ? (light + 0.05) / 0.05 : 1.05 / (light + 0.05);
      assert.ok(contrast >= 4.5, `${color} on ${background}: ${contrast}`);
    }
});

test("events follow each other by steps, whatever their order in the list", () => {
  const [late, early, middle] = [event(30), event(10), event(20)];
  const events = [late, early, middle];
  assert.deepEqual([neighbour(events, early, 1), neighbour(events, early, -1)], [middle, null]);
  assert.deepEqual([neighbour(events, null, 1), neighbour(events, null, -1)], [early, late]);
  assert.equal(neighbour([], null, 1), null);
});

test("a scalar stands below its own steps, whichever of the two has more columns", () => {
  const one = (/** @type {number} */ first, /** @type {number} */ last, /** @type {number} */ value) => ({
    first,
    last,
    value,
    bad: false,
  });
  const heads = [4, 5, 6, 7].map((step) => ({ first: step, last: step }));
  assert.deepEqual(cellsBelow([one(3, 4, 1), one(5, 6, 2), one(7, 8, 3)], heads), [
    { value: 1, bad: false, span: 1 },
    { value: 2, bad: false, span: 2 },
    { value: 3, bad: false, span: 1 },
  ]);
  assert.deepEqual(
    cellsBelow([one(4, 4, 1), { ...one(5, 5, Number.NaN), bad: true }, one(6, 6, 9)], [{ first: 4, last: 7 }]),
    [{ value: 9, bad: true, span: 1 }],
  );
  assert.deepEqual(cellsBelow([one(5, 5, 2)], heads.slice(0, 2)), [
    { value: Number.NaN, bad: false, span: 1 },
    { value: 2, bad: false, span: 1 },
  ]);
});

test("a replay is told as questions and answers, and a line of code without its mark", () => {
  const answers = /** @type {[string, string][]} */ ([
    ["began in", "att (aten._softmax, model.py:41)"],
    ["", "> return x.softmax(-1)"],
    ["note", "> 3 rows"],
  ]);
  assert.equal(replayTold(event(3)), null);
  assert.deepEqual(replayTold(event(3, { replay: { step: 3, answers: [] } })), { step: 3, answers: [] });
  assert.deepEqual(replayTold(event(3, { replay: { step: 4, answers } })), {
    step: 4,
    answers: [
      { label: "began in", text: "att (aten._softmax, model.py:41)", isCode: false },
      { label: "", text: "return x.softmax(-1)", isCode: true },
      { label: "note", text: "> 3 rows", isCode: false },
    ],
  });
});
