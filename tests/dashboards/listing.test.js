import assert from "node:assert/strict";
import { test } from "node:test";
import { listing } from "../../dashboards/chart/listing.js";
import { heatListing } from "../../dashboards/heat/listing.js";
import { valuesOf } from "../../dashboards/heat/values.js";
import { LAYERS, random, tile } from "./support.js";

/** @param {number[]} high @param {Partial<import("../../dashboards/types.d.ts").Line>} [more] @param {number} [wide] */
function line(high, more = {}, wide = 1) {
  const first = Float64Array.from(high, (_, i) => i * wide);
  const last = first.map((step) => step + wide - 1);
  return { label: "norm", colour: "#000000", first, last, high: Float64Array.from(high), ...more };
}

test("a row of a table tells the steps of a column, its span and what was not finite", () => {
  const band = line([2, NaN, 3, NaN], {
    low: Float64Array.of(1, NaN, 3, NaN),
    bad: Float64Array.of(0, 2, 1, 0),
    infinite: Float64Array.of(0, 0, 1, 0),
  });
  assert.deepEqual(listing([band], [-0.5, 3.5], false), {
    heads: ["steps", "norm"],
    rows: [
      ["step 0", "1 to 2"],
      ["step 1", "not finite"],
      ["step 2", "3, not finite at 1 step (infinite at 1)"],
      ["step 3", "–"],
    ],
  });
  assert.deepEqual(
    listing([band], [1.5, 2.5], false).rows.map(([name]) => name),
    ["step 2"],
  );
  assert.deepEqual(listing([line([0.5], {}, 10)], [0, 9], true).rows, [["steps 0 to 9", "50%"]]);
});

test("many steps share a row, which keeps the lowest and the highest of them", () => {
  const next = random(7);
  const values = Array.from({ length: 2345 }, next);
  values[1234] = 1e9;
  const { rows } = listing([line(values)], [-0.5, 2344.5], false);
  assert(rows.length > 100 && rows.length <= 200);
  assert.equal(rows.filter(([, text]) => text.endsWith("to 1e9")).length, 1);
  const ends = rows.map(([name]) => name.replaceAll(",", "").match(/\d+/g)?.map(Number) ?? []);
  assert.equal(ends[0][0], 0);
  assert.equal(ends.at(-1)?.at(-1), 2344);
  for (const [i, [begin]] of ends.entries()) if (i) assert.equal(begin, (ends[i - 1].at(-1) ?? NaN) + 1);
});

test("lines of several runs stand beside one another, whatever their columns are", () => {
  const { heads, rows } = listing([line([1, 2, 3, 4]), line([10], { label: "other" }, 2)], [-0.5, 3.5], false);
  assert.deepEqual(heads, ["steps", "norm", "other"]);
  assert.deepEqual(
    rows.map((cells) => cells.slice(1)),
    [
      ["1", "10"],
      ["2", "10"],
      ["3", "–"],
      ["4", "–"],
    ],
  );
});

test("the heat map is told at the pinned step, at the event, or at the last step in view", () => {
  const norms = tile("norm", [
    [1, 2, 3],
    [4, -1, Infinity],
  ]);
  /** @type {import("../../dashboards/heat/heatmap.js").Shown} */
  const shown = {
    stat: "norm",
    tile: norms,
    whole: norms,
    values: valuesOf(norms, "norm", LAYERS.layers),
    rows: LAYERS.layers.map(({ name }, i) => ({ name, members: [i] })),
    chosenRow: null,
    range: [-0.5, 1.5],
    lastStep: 1,
    events: [],
    chosen: null,
    selected: [],
    pin: null,
    parting: null,
    theme: "light",
  };
  const last = heatListing(shown);
  assert.equal(last.caption, "gradient norm, step 1");
  assert.deepEqual(last.rows, [
    ["encoder.0.weight", "4"],
    ["encoder.0.bias", "no gradient"],
    ["head.weight", "not finite"],
  ]);
  assert.deepEqual(
    heatListing({ ...shown, pin: 0 }).rows.map(([, value]) => value),
    ["1", "2", "3"],
  );
  const many = Array.from({ length: 1500 }, () => shown.rows[0]);
  assert.equal(heatListing({ ...shown, rows: many }).rows.length, 1000);
  assert.match(heatListing({ ...shown, rows: many }).note, /500 more rows: filter or group them/);
});

test("what clipping left is told after the norm below which it is drawn", () => {
  const left = line([1], { label: "left by clipping", under: true });
  const norm = line([3], { label: "total_norm" });
  const threshold = line([2], { label: "max_norm", reference: true });
  assert.deepEqual(listing([left, norm, threshold], [-0.5, 0.5], false), {
    heads: ["steps", "total_norm", "left by clipping", "max_norm"],
    rows: [["step 0", "3", "1", "2"]],
  });
});
