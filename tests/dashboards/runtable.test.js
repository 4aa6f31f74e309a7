import assert from "node:assert/strict";
import { test } from "node:test";
import { columnsOf, differing, nextSort, sorted } from "../../dashboards/state/runtable.js";

/** @typedef {import("../../dashboards/types.d.ts").ListedRun} ListedRun */

const NUMBERS = {
  fault: null,
  fault_step: null,
  fault_layer: null,
  steps: 1000,
  learning_rate: 1.25e-4,
  threshold: null,
  clipped_fraction: null,
  median_norm: 1,
  max_norm: 2,
  nonfinite_steps: 0,
  last_loss: 0.5,
};

/** @param {string} name @param {Partial<import("../../dashboards/types.d.ts").RunNumbers>} numbers @param {Partial<ListedRun>} more @returns {ListedRun} */
function run(name, numbers = {}, more = {}) {
  return { name, verdict: "healthy", error: null, numbers: { ...NUMBERS, ...numbers }, ...more };
}

/** @param {ListedRun[]} runs @param {string} sort */
const names = (runs, sort) => sorted(runs, columnsOf(runs), sort).map(({ name }) => name);

test("a column tells its numbers as the rest of the page does, and what is unknown", () => {
  const one = run("a", {
    clipped_fraction: 0.25,
    fault: "diverged",
    fault_step: 12345,
    fault_layer: "head",
    last_loss: "NaN",
  });
  const told = Object.fromEntries(columnsOf([one]).map(({ key, text }) => [key, text(one)]));
  assert.equal(told.learning_rate, "1.25e-4");
  assert.equal(told.clipped_fraction, "25%");
  assert.equal(told.fault, "diverged, step 12,345");
  assert.equal(told.fault_layer, "head");
  assert.deepEqual([told.threshold, told.last_loss, told.steps], ["–", "NaN", "1,000"]);
  const broken = run("b", {}, { numbers: null, verdict: null, error: "damaged" });
  const rest = Object.fromEntries(columnsOf([broken]).map(({ key, text }) => [key, text(broken)]));
  assert.deepEqual([rest.verdict, rest.fault, rest.fault_layer, rest.max_norm], ["can't be read", "–", "–", "–"]);
});

test("settings have a column where the runs differ in them, and only there", () => {
  const settings = [
    { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8 },
    { lr: 0.2, betas: [0.9, 0.95], eps: 1e-8 },
  ];
  const runs = [run("a", {}, { settings: settings[0] }), run("b", {}, { settings: settings[1] }), run("c")];
  assert.deepEqual(differing(runs), ["lr", "betas"]);
  assert.deepEqual(differing([]), []);
  const texts = columnsOf(runs).slice(-2);
  assert.deepEqual(
    texts.map(({ text }) => text(runs[0])),
    ["0.1", "[0.9,0.99]"],
  );
  assert.deepEqual(
    texts.map(({ text }) => text(runs[2])),
    ["–", "–"],
  );
});

test("runs are sorted in both directions; unknown values are last in both, and NaN is the largest", () => {
  const values = [3, null, "NaN", 1, "Infinity"];
  const runs = values.map((value, i) => run(`${i}`, { last_loss: value }));
  assert.deepEqual(names(runs, "last_loss"), ["3", "0", "2", "4", "1"]);
  assert.deepEqual(names(runs, "-last_loss"), ["2", "4", "0", "3", "1"]);
  assert.deepEqual(names(runs, ""), ["0", "1", "2", "3", "4"]);
  assert.deepEqual(names(runs, "-gone"), ["0", "1", "2", "3", "4"]);
});

test("names are sorted with their numbers, and verdicts by gravity", () => {
  const runs = [run("run 10"), run("run 9", {}, { verdict: "critical" }), run("run 1", {}, { verdict: "warning" })];
  assert.deepEqual(names(runs, "name"), ["run 1", "run 9", "run 10"]);
  assert.deepEqual(names(runs, "-verdict"), ["run 9", "run 1", "run 10"]);
});

test("clicks on a head go through both orders and back to the first one", () => {
  const columns = columnsOf([]);
  for (const [key, orders] of /** @type {[string, string[]][]} */ ([
    ["max_norm", ["-max_norm", "max_norm", ""]],
    ["name", ["name", "-name", ""]],
    ["verdict", ["-verdict", "verdict", ""]],
  ])) {
    const column = /** @type {import("../../dashboards/state/runtable.js").Column} */ (
      columns.find((one) => one.key === key)
    );
    let sort = "";
    for (const order of orders) {
      sort = nextSort(sort, column);
      assert.equal(sort, order);
    }
  }
  assert.equal(nextSort("-name", columns[5]), "-learning_rate");
});
