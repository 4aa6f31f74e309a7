import assert from "node:assert/strict";
import { test } from "node:test";
import { foundRuns, KINDS } from "../../dashboards/state/found.js";
import { decoded, encoded } from "../../dashboards/state/hash.js";
import { INITIAL } from "../../dashboards/state/state.js";

/** @param {string} name @param {import("../../dashboards/types.d.ts").Verdict | null} verdict */
const run = (name, verdict = "healthy", running = false) => ({ name, verdict, running, error: null });
const RUNS = [run("sweep/lr=1", "critical"), run("sweep/lr=0.1", "warning"), run("base"), run("new", null, true)];

/** @param {[find: string, kind?: string, drawn?: (string | null)[], most?: number]} given */
function names(...[find, kind = "all", drawn = [], most = 100]) {
  return foundRuns(RUNS, find, kind, drawn, most).listed.map(({ name }) => name);
}

test("runs are found by a regular expression of their names, in either case", () => {
  assert.deepEqual(names("SWEEP"), ["sweep/lr=1", "sweep/lr=0.1"]);
  assert.deepEqual(names("lr=.$"), ["sweep/lr=1"]);
  assert.equal(names("").length, 4);
  assert.deepEqual(names("nothing"), []);
});

test("half an expression is searched for as text", () => {
  assert.deepEqual(foundRuns([run("a(b"), run("ab")], "a(", "all", [], 9).listed, [run("a(b")]);
});

test("runs are found by their kind, and an unknown kind is all", () => {
  assert.deepEqual(names("", "faulty"), ["sweep/lr=1", "sweep/lr=0.1"]);
  assert.deepEqual(names("", "critical"), ["sweep/lr=1"]);
  assert.deepEqual(names("", "healthy"), ["base"]);
  assert.deepEqual(names("", "recording"), ["new"]);
  assert.deepEqual(names("", "strange"), names("", "all"));
  assert.ok("all" in KINDS);
});

test("a run that is drawn stays in the list, in its place", () => {
  assert.deepEqual(names("sweep", "all", [null, "base"]), ["sweep/lr=1", "sweep/lr=0.1", "base"]);
});

test("of a thousand runs the first are listed, and the others are counted", () => {
  const thousand = Array.from({ length: 1000 }, (_, i) => run(`run ${i}`));
  const { listed, matching, left } = foundRuns(thousand, "", "all", ["run 999"], 100);
  assert.deepEqual([listed.length, matching, left], [101, 1000, 900]);
  assert.equal(foundRuns(thousand, "9$", "all", [], 100).left, 0);
  assert.equal(foundRuns(thousand, "", "all", [], Infinity).left, 0);
});

test("what is searched for is in the address", () => {
  const state = { ...INITIAL, find: "lr=(1|2)&x", kind: "faulty" };
  const { find, kind } = decoded(encoded(state));
  assert.deepEqual([find, kind], ["lr=(1|2)&x", "faulty"]);
  assert.equal(encoded(INITIAL), "");
});
