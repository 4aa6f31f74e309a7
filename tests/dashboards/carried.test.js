import assert from "node:assert/strict";
import { test } from "node:test";
import { carried } from "../../dashboards/data/sources.js";
import { ADVICE, LAYERS, overview } from "./support.js";

/** @param {string} run @param {string} optimizer */
function part(run, optimizer) {
  const texts = { series: "", distribution: "", scatter: "", magnitudes: null, tiles: {} };
  return { overview: overview({ run, optimizer }), layers: LAYERS, advice: ADVICE, ...texts };
}

/** @param {string[]} names */
function listing(names) {
  return { runs: names.map((name) => ({ name, verdict: null, error: null })), folders: [] };
}

test("a file of one run answers for each of its optimizers, and for the first one without a name", async () => {
  const runs = { a: { critic: part("a", "critic"), generator: part("a", "generator") } };
  const source = carried({ list: listing(["a"]), runs });
  assert.equal(source.several, false);
  assert.equal((await source.overview({ run: "a" })).optimizer, "critic");
  const other = await source.overview({ run: "a", optimizer: "generator" });
  assert.deepEqual([other.optimizer, other.optimizers], ["generator", ["critic", "generator"]]);
});

test("a file of many runs answers for those that it holds, and says where the others are", async () => {
  const source = carried({ list: listing(["a", "b", "c"]), runs: { b: { 0: part("b", "0") } } });
  assert.equal(source.several, true);
  assert.equal((await source.list()).runs.length, 3);
  assert.equal((await source.overview({ run: "b" })).run, "b");
  await assert.rejects(source.overview({ run: "c" }), /Of c this file has only the row/);
});
