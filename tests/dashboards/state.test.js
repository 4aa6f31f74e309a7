import assert from "node:assert/strict";
import { test } from "node:test";
import { withEvent } from "../../dashboards/state/lead.js";
import { memo } from "../../dashboards/state/memo.js";
import {
  afterListing,
  drawn,
  focused,
  INITIAL,
  MOST_RUNS,
  queryOf,
  toggled,
  withOptimizer,
} from "../../dashboards/state/state.js";
import { event, overview } from "./support.js";

/** @param {...string} names */
const listing = (...names) => ({ runs: names.map((name) => ({ name, verdict: null, error: null })), folders: [] });
const one = afterListing(INITIAL, listing("a", "b", "c"));

test("the page opens with the first run that can be read", () => {
  assert.deepEqual([one.focus, drawn(one)], ["a", ["a"]]);
  const broken = { runs: [{ name: "x", verdict: null, error: "no store" }, ...listing("y").runs], folders: [] };
  assert.equal(afterListing(INITIAL, broken).focus, "y");
  assert.equal(afterListing(INITIAL, { ...broken, runs: broken.runs.slice(0, 1) }).focus, "x");
  assert.deepEqual(afterListing(one, listing()), { ...one, slots: [], focus: null });
});

test("a tick draws a run beside the others and changes nothing else that the reader sees", () => {
  const before = { ...one, zoom: /** @type {[number, number]} */ ([10, 20]), event: "5 spike 0 ", layer: "w" };
  const after = toggled(before, "b");
  assert.deepEqual(after, { ...before, slots: ["a", "b"] });
});

test("the others keep their colours when a run is no longer drawn, and the free colour is taken next", () => {
  const three = toggled(toggled(one, "b"), "c");
  const without = toggled(three, "b");
  assert.deepEqual(without.slots, ["a", null, "c"]);
  assert.deepEqual(toggled(without, "d").slots, ["a", "d", "c"]);
});

test("the last run stays drawn, and a run beyond the sixth is refused", () => {
  assert.equal(toggled(one, "a"), one);
  const six = ["b", "c", "d", "e", "f"].reduce(toggled, one);
  assert.equal(drawn(six).length, MOST_RUNS);
  assert.equal(toggled(six, "g"), six);
});

test("when the run in the focus is no longer drawn, another one gets the focus", () => {
  const after = toggled(toggled(one, "b"), "a");
  assert.deepEqual([after.focus, after.slots], ["b", [null, "b"]]);
});

test("a run that is drawn gets the focus beside the others, with the same steps", () => {
  const two = { ...toggled(one, "b"), zoom: /** @type {[number, number]} */ ([1, 9]), event: "e", trial: 3 };
  const after = focused(two, "b");
  assert.deepEqual(after, { ...two, focus: "b", event: null, trial: null });
  assert.equal(focused(after, "b"), after);
});

test("a run that is not drawn gets the focus instead of the others", () => {
  const after = focused({ ...toggled(one, "b"), zoom: [1, 9] }, "c");
  assert.deepEqual([after.slots, after.zoom], [["c"], null]);
});

test("runs that are gone are dropped; the others keep their place", () => {
  const three = { ...["b", "c"].reduce(toggled, one), focus: "c" };
  assert.deepEqual(afterListing(three, listing("a", "c")).slots, ["a", null, "c"]);
  assert.equal(afterListing(three, listing("a", "c")).focus, "c");
  assert.equal(afterListing(three, listing("a", "b")).focus, "a");
  assert.deepEqual(drawn(afterListing(three, listing("z"))), ["z"]);
});

test("an optimizer is named only where it was chosen", () => {
  assert.deepEqual(queryOf(one, "a"), { run: "a" });
  assert.deepEqual(queryOf(withOptimizer(one, "critic"), "a"), { run: "a", optimizer: "critic" });
  assert.equal(withOptimizer(INITIAL, "critic"), INITIAL);
});

test("a chosen event leads to its steps and its layer, and to its optimizer", () => {
  const run = overview({ optimizer: "g", optimizers: ["g", "d"] });
  const after = withEvent(one, event(100, { optimizer: "d", parameter: "w" }), run);
  assert.deepEqual([after.layer, after.zoom, after.optimizers], ["w", [60, 140], { a: "d" }]);
  assert.deepEqual(withEvent(one, event(100, { optimizer: "g" }), run).optimizers, {});
  assert.equal(withEvent({ ...one, layer: "v" }, event(1, { optimizer: "g" }), run).layer, "v", "it names no layer");
  const elsewhere = withEvent({ ...one, layer: "v" }, event(1, { optimizer: "not in this file", parameter: "w" }), run);
  assert.deepEqual([elsewhere.layer, elsewhere.optimizers], ["v", {}]);
});

test("a filter that would hide the layer of the event goes; another stays", () => {
  const found = event(1, { parameter: "encoder.weight" });
  assert.equal(withEvent({ ...one, filter: "head" }, found, overview()).filter, "");
  assert.equal(withEvent({ ...one, filter: "enc" }, found, overview()).filter, "enc");
});

test("a kept result is computed again only for other arguments", () => {
  let calls = 0;
  const twice = memo((/** @type {object} */ one) => ({ one, call: ++calls }));
  const [a, b] = [{}, {}];
  assert.equal(twice(a), twice(a));
  twice(b);
  assert.equal(calls, 2);
});
