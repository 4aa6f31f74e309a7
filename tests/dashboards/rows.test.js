import assert from "node:assert/strict";
import { test } from "node:test";
import { rowClicked, told } from "../../dashboards/heat/readout.js";
import { choices, offered, sourceOf, statistic } from "../../dashboards/heat/statistics.js";
import { ABSENT, largest, lineOf, valuesOf } from "../../dashboards/heat/values.js";
import { depths, passes, rowNamed, rowSubjects, rowsOf } from "../../dashboards/state/rows.js";
import { LAYERS, tile } from "./support.js";

const { layers, telling } = LAYERS;
const all = { filter: "", depth: 0, order: "model" };

test("every layer has a row, in the order of the model or the most telling first", () => {
  assert.deepEqual(
    rowsOf(layers, telling, all).map((row) => row.members),
    [[0], [1], [2]],
  );
  assert.deepEqual(
    rowsOf(layers, telling, { ...all, order: "trouble" }).map((row) => row.members),
    [[2], [0], [1]],
  );
});

test("layers are grouped by the first parts of their names, and a group tells its size", () => {
  const rows = rowsOf(layers, telling, { ...all, depth: 1 });
  assert.deepEqual(rows, [
    { name: "encoder (2)", members: [0, 1] },
    { name: "head.weight", members: [2] },
  ]);
});

test("a filter is a regular expression that ignores case", () => {
  assert.deepEqual(
    rowsOf(layers, telling, { ...all, filter: "^ENCODER.*t$" }).map((row) => row.name),
    [layers[0].name],
  );
  assert.deepEqual(rowsOf(layers, telling, { ...all, filter: "nothing" }), []);
  assert.throws(() => rowsOf(layers, telling, { ...all, filter: "(" }), SyntaxError);
  assert.deepEqual(
    [passes("Head", "head.weight"), passes("x", "head.weight"), passes("(", "head")],
    [true, false, false],
  );
});

test("a row is found by its name or by that of a layer in it", () => {
  const rows = rowsOf(layers, telling, { ...all, depth: 1 });
  assert.equal(rowNamed(rows, layers, "encoder (2)"), rows[0]);
  assert.equal(rowNamed(rows, layers, "encoder.0.bias"), rows[0]);
  assert.equal(rowNamed(rows, layers, "gone"), null);
  assert.equal(rowNamed(rows, layers, null), null);
});

test("there are as many depths as names have parts, six at most", () => {
  assert.deepEqual(depths(layers), [0, 1, 2]);
  assert.deepEqual(depths([]), [0]);
  assert.equal(depths([{ name: "a.b.c.d.e.f.g.h.i" }]).length, 6);
});

test("statistics of ranks have a row for each process", () => {
  const { layers: ranks, telling: order } = rowSubjects(true, { ...LAYERS, ranks: 2 });
  assert.deepEqual(
    ranks.map((rank) => rank.name),
    ["rank 0", "rank 1"],
  );
  assert.deepEqual(order, [0, 1]);
  assert.equal(rowSubjects(false, LAYERS).layers, layers);
});

test("a run is offered the statistics that it has", () => {
  assert.deepEqual(choices(LAYERS), ["norm", "relative", "zeros"]);
  assert.equal(offered("zeros", LAYERS), "zeros");
  assert.equal(offered("update_ratio", LAYERS), "norm");
  assert.equal(offered("norm", { ...LAYERS, layers: [] }), null);
  assert.equal(offered("norm", { ...LAYERS, stats: [] }), null);
  for (const stat of choices({ ...LAYERS, stats: choices(LAYERS) })) assert.ok(statistic(stat).label && sourceOf(stat));
});

test("values are divided by what the statistic is relative to; no value and no finite value stay what they are", () => {
  const table = tile("norm", [
    [8, 5, Infinity],
    [ABSENT, 0, 1],
  ]);
  const relative = valuesOf(table, "relative", layers);
  assert.deepEqual([relative(0, 0), relative(0, 2)], [4, Infinity]);
  assert.deepEqual([relative(1, 0), relative(1, 2)], [ABSENT, 1]);
  assert.equal(valuesOf(table, "zeros", layers)(0, 0), 2);
});

test("nothing is a multiple of a median that is 0 or unknown, and what is not finite still shows", () => {
  const table = tile("norm", [
    [5, 5, 5],
    [Infinity, Infinity, Infinity],
  ]);
  const medians = [0, null, 2].map((median) => ({ numel: 1, median }));
  const relative = valuesOf(table, "relative", medians);
  assert.deepEqual([relative(0, 0), relative(0, 1), relative(0, 2)], [ABSENT, ABSENT, 2.5]);
  assert.deepEqual([relative(1, 0), relative(1, 1), relative(1, 2)], [Infinity, Infinity, Infinity]);
});

test("the largest value of a row: not finite is more than all, no value less than all", () => {
  const values = valuesOf(
    tile("norm", [
      [1, 2, ABSENT],
      [1, Infinity, ABSENT],
    ]),
    "norm",
    layers,
  );
  const row = { name: "", members: [0, 1, 2] };
  assert.deepEqual([largest(values, row, 0), largest(values, row, 1)], [2, Infinity]);
  assert.equal(largest(values, { name: "", members: [2] }, 0), ABSENT);
});

test("a row as a line has the largest finite values, and tells where one was not finite", () => {
  const table = tile("norm", [
    [1, 2, ABSENT],
    [1, Infinity, ABSENT],
    [ABSENT, ABSENT, ABSENT],
    [Infinity, ABSENT, ABSENT],
  ]);
  const line = lineOf(valuesOf(table, "norm", layers), { name: "", members: [0, 1, 2] }, table.arrays);
  assert.deepEqual([...line.high], [2, 1, NaN, NaN]);
  assert.deepEqual([...line.bad], [0, 1, 0, 1]);
});

test("where rows share a line of pixels, the pointer tells the row that colours it, and clicks go through all", () => {
  const table = tile("norm", [
    [1, 3, 2],
    [5, 3, Infinity],
  ]);
  const shown = { stat: "norm", tile: table, values: valuesOf(table, "norm", layers), lastStep: 1 };
  const rows = rowsOf(layers, telling, all);
  assert.equal(told(shown, rows, 0), "encoder.0.bias · step 0 · 3 · the largest of 3 rows in this line");
  assert.equal(told(shown, rows, 1), "head.weight · step 1 · not finite · the largest of 3 rows in this line");
  assert.equal(told(shown, rows.slice(0, 1), 1), "encoder.0.weight · step 1 · 5");
  assert.equal(told(shown, rows, 9), "no step was recorded here");
  const first = rowClicked(shown, rows, 0, null);
  const second = rowClicked(shown, rows, 0, first);
  const third = rowClicked(shown, rows, 0, second);
  assert.deepEqual([first, second, third].map((row) => row.name).sort(), rows.map((row) => row.name).sort());
  assert.equal(rowClicked(shown, rows, 0, third), first);
});

test("a sampled statistic tells the sample that holds, and what it means that there is none", () => {
  const table = tile("update_ratio", [[0.01, ABSENT]]);
  const shown = { stat: "update_ratio", tile: table, values: valuesOf(table, "update_ratio", layers), lastStep: 9 };
  const [weight, bias] = rowsOf(layers, telling, all);
  assert.equal(told(shown, [weight], 7), "encoder.0.weight · step 0 · 0.01");
  assert.match(told(shown, [bias], 7), /not sampled, or weights are zero/);
  assert.equal(told(shown, [weight], 12), "no step was recorded here");
});
