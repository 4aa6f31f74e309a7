import assert from "node:assert/strict";
import { test } from "node:test";
import { number } from "../../dashboards/draw/text.js";
import { ABSENT, valuesOf } from "../../dashboards/heat/values.js";
import { beyond, byLine, hull, placeOf } from "../../dashboards/profile/draw.js";
import { axisOf, bandsOf, profileAt, slopeOf, slopeText } from "../../dashboards/profile/values.js";
import { random, tile } from "./support.js";

const layers = [{ numel: 1 }, { numel: 1 }];
const rows = [
  { name: "a", members: [0] },
  { name: "b", members: [1] },
  { name: "both", members: [0, 1] },
];

test("a band holds nine tenths of a row's finite values, its middle is the median", () => {
  const table = tile(
    "norm",
    Array.from({ length: 101 }, (_, i) => [i, i % 2 ? Infinity : ABSENT]),
  );
  const [first, none, both] = bandsOf(rows, valuesOf(table, "norm", layers), table);
  assert.deepEqual(first, { low: 5, middle: 50, high: 95 });
  assert.deepEqual(none, { low: NaN, middle: NaN, high: NaN });
  assert.ok(both.high <= 100, "where one of several was not finite, the row has no finite value");
});

test("bands are those of a plain sort", () => {
  const next = random(4);
  const table = tile(
    "norm",
    Array.from({ length: 57 }, () => [next(), next()]),
  );
  const sorted = Array.from({ length: 57 }, (_, i) => table.arrays.values[2 * i + 1]).sort((a, b) => a - b);
  const [, band] = bandsOf(rows, valuesOf(table, "norm", layers), table);
  assert.deepEqual(band, { low: sorted[3], middle: sorted[28], high: sorted[53] });
});

test("the percentiles of a long run are over evenly chosen columns, near those over all", () => {
  const table = tile(
    "norm",
    Array.from({ length: 2000 }, (_, i) => [i, 1]),
  );
  const [band] = bandsOf(rows, valuesOf(table, "norm", layers), table);
  assert.ok(Math.abs(band.low - 100) < 10 && Math.abs(band.middle - 1000) < 10 && Math.abs(band.high - 1900) < 10);
});

test("a profile has each row's value in a column, and none without a column", () => {
  const values = valuesOf(tile("norm", [[1, Infinity]]), "norm", layers);
  assert.deepEqual(profileAt(rows, values, 0), [1, Infinity, Infinity]);
  assert.deepEqual(profileAt(rows, values, -1), [ABSENT, ABSENT, ABSENT]);
});

test("gradients that shrink by a constant factor a layer are told as that factor", () => {
  const halving = Array.from({ length: 11 }, (_, row) => 2 ** row); // the last row is next to the loss
  const slope = slopeOf(halving);
  assert.ok(slope);
  assert.ok(Math.abs(slope.ratio - 0.5) < 1e-12);
  assert.ok(Math.abs(slope.total - 2 ** -10) < 1e-12);
  assert.ok(Math.abs(slope.fit - 1) < 1e-12);
  assert.equal(slopeText(slope, number), "falls towards the input, × 0.5 a row, × 9.77e-4 in all");
  assert.match(slopeText(slopeOf(halving.toReversed()), number), /^rises towards the input, × 2 a row, × 1024 in all$/);
});

test("a gentle slope is told, and noise is no trend", () => {
  assert.equal(slopeText(slopeOf([1, 1.1, 1.21]), number), "falls towards the input, × 0.9091 a row, × 0.826 in all");
  assert.equal(slopeText(slopeOf([1, 5, 1, 5, 1, 5, 1]), number), "no trend with depth");
  assert.equal(slopeText(slopeOf([2, 2, 2]), number), "no trend with depth");
});

test("what is zero, absent or not finite has no part in a slope", () => {
  const slope = slopeOf([1, 0, 4, Infinity, 16, ABSENT, 64]);
  assert.ok(slope);
  assert.ok(Math.abs(slope.ratio - 0.5) < 1e-12);
  assert.equal(slopeOf([1, 2, ABSENT, 0]), null);
  assert.equal(slopeText(slopeOf([]), number), "");
});

test("the axis has room for what is usual and ten times above it; fixed ends stay", () => {
  const bands = [
    { low: 0.2, middle: 1, high: 3 },
    { low: NaN, middle: NaN, high: NaN },
    { low: 0, middle: 0, high: 5 },
  ];
  const statistic = { label: "", absent: "", log: true };
  assert.deepEqual(axisOf(bands, statistic), [0.1, 50]);
  assert.deepEqual(axisOf(bands, { ...statistic, ends: [0.01, 100] }), [0.01, 100]);
  assert.deepEqual(axisOf([bands[1]], statistic), [0.1, 10]);
});

test("values beyond the axis lie at its ends", () => {
  const place = placeOf([1, 100], true, 116);
  assert.deepEqual([0, 0.1, 1, 10, 100, 1e9].map(place), [8, 8, 8, 58, 108, 108]);
});

test("what shares a line is combined: the widest band, the largest value", () => {
  const bands = [0, 1, 2].map((i) => ({ low: i, middle: i, high: i + 1 }));
  assert.deepEqual(byLine([...bands, { low: NaN, middle: NaN, high: NaN }], 2, hull), [
    { low: 0, middle: 1, high: 2 },
    { low: 2, middle: 2, high: 3 },
  ]);
  assert.deepEqual(byLine([], 2, hull), []);
});

test("a value beyond the ends of the axis has a side, and zero is below a logarithmic one", () => {
  assert.deepEqual(
    [0, 0.1, 3, 10, 1e20].map((value) => beyond([0.1, 10], value)),
    [-1, 0, 0, 0, 1],
  );
});
