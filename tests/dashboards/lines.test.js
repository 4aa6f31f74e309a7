import assert from "node:assert/strict";
import { test } from "node:test";
import { badSpans, spansOf } from "../../dashboards/chart/bad.js";
import { describe, stepsAt, valuesAt } from "../../dashboards/chart/readout.js";
import { above, capOf, cutText, isolated, tableOf, yRange } from "../../dashboards/chart/table.js";

import { drawnRuns } from "../../dashboards/parts/drawn.js";
import {
  coefLines,
  lossLines,
  normLines,
  recordedLines,
  shareLines,
  spansDecades,
  updateLines,
} from "../../dashboards/parts/lines.js";
import { factsOf } from "../../dashboards/parts/verdict.js";
import { overview, series } from "./support.js";

const band = (/** @type {string} */ name, /** @type {number[]} */ values) => ({
  [`${name}.low`]: values,
  [`${name}.high`]: values,
});
const plain = series(3, { ...band("total_norm", [1, 2, 3]), ...band("loss", [3, 2, 1]) });
const clipped = series(3, {
  ...band("total_norm", [1, 2, 3]),
  ...band("left_norm", [1, 1, 1]),
  ...band("max_norm", [1, 1, 1]),
  clipped: [0, 1, 1],
});
/** @type {import("../../dashboards/types.d.ts").Theme} */
const theme = "light";
const only = (/** @type {any} */ given) => ({ runs: drawnRuns(["a"], "a", { a: given }), theme, trial: null });

test("a run that never clips has its norm and no lines of clipping", () => {
  assert.deepEqual(
    normLines(only(plain)).map((line) => line.label),
    ["total_norm"],
  );
  assert.deepEqual(
    [shareLines(only(plain)), coefLines(only(plain)), recordedLines("learning_rate")(only(plain))],
    [[], [], []],
  );
});

test("updates have lines in a run that recorded them, and none in another", () => {
  const [norms, ratios] = [recordedLines("update_norm"), recordedLines("update_ratio")];
  assert.deepEqual([norms(only(plain)), ratios(only(plain))], [[], []]);
  const updated = series(2, { ...band("update_norm", [2, 3]), ...band("update_ratio", [0.01, 0.02]) });
  assert.deepEqual(norms(only(updated))[0].high, Float64Array.from([2, 3]));
  assert.deepEqual(ratios(only(updated))[0].low, Float64Array.from([0.01, 0.02]));
});

test("a run that clips has its threshold, what was left, and a threshold that is tried", () => {
  const labels = normLines({ ...only(clipped), trial: 0.5 }).map((line) => line.label);
  assert.deepEqual(labels, ["left by clipping", "total_norm", "max_norm", "threshold tried"]);
  assert.equal(shareLines(only(clipped)).length, 1);
});

test("several runs are told apart by name, and only the one in the focus has its threshold", () => {
  const runs = drawnRuns(["a", null, "b"], "b", { a: clipped, b: plain });
  assert.deepEqual(
    normLines({ runs, theme, trial: null }).map((line) => line.label),
    ["a: total_norm", "b: total_norm"],
  );
  assert.deepEqual(
    runs.map((run) => run.slot),
    [0, 2],
  );
  assert.notEqual(normLines({ runs, theme, trial: null })[0].colour, normLines({ runs, theme, trial: null })[1].colour);
});

test("a run whose series have not arrived is not drawn", () => {
  assert.deepEqual(drawnRuns(["a"], "a", {}), []);
});

test("losses that span decades have a logarithmic axis, unless one is zero or negative", () => {
  const spans = (/** @type {number[]} */ losses) => spansDecades(lossLines(only(series(3, band("loss", losses)))));
  assert.deepEqual(
    [spans([1, 2, 3]), spans([1, 2, 5000]), spans([0, 2, 5000]), spans([-1, 2, 5000])],
    [false, true, false, false],
  );
  assert.equal(spansDecades([]), false);
});

test("columns with a gradient that was not finite become spans", () => {
  const found = badSpans(series(3, { nonfinite: [0, 2, 1], infinite: [0, 0, 1] }), "nonfinite");
  assert.deepEqual(found, [
    { first: 1, last: 1, infinite: false },
    { first: 2, last: 2, infinite: true },
  ]);
  const ofLoss = badSpans(series(3, { "loss.bad": [1, 0, 0], infinite: [1, 0, 0] }), "loss.bad");
  assert.deepEqual(ofLoss, [{ first: 0, last: 0, infinite: false }]);
});

test("past the end of a shorter run its line tells where it ended, not its last value", () => {
  const runs = drawnRuns(["long", "short"], "long", {
    long: series(10, band("loss", [...Array(10).keys()])),
    short: plain,
  });
  const texts = valuesAt(lossLines({ runs, theme, trial: null }), 7, false).map((value) => value.text);
  assert.deepEqual(texts, ["long: loss 7", "short: loss ended at step 2"]);
  assert.equal(stepsAt(lossLines({ runs, theme, trial: null }), 7), "at step 7");
});

test("a column that joins steps tells its lowest and highest value, and where the highest is", () => {
  const joined = {
    label: "total_norm",
    colour: "#000000",
    first: Float64Array.of(0, 10),
    last: Float64Array.of(9, 19),
    low: Float64Array.of(1, 2),
    high: Float64Array.of(5, 2),
    at: Float64Array.of(7, 11),
    bad: Float64Array.of(3, 0),
    infinite: Float64Array.of(1, 0),
  };
  assert.deepEqual(valuesAt([joined], 4, false)[0].text, "total_norm 1 to 5, not finite at 3 steps (infinite at 1)");
  assert.deepEqual(valuesAt([joined], 12, false)[0].text, "total_norm 2");
  assert.equal(stepsAt([joined], 4), "at steps 0 to 9, highest at 7");
  assert.equal(describe(joined), "total_norm from 1 to 5");
});

test("a column without a finite value says so", () => {
  const line = {
    label: "loss",
    colour: "",
    first: Float64Array.of(0),
    last: Float64Array.of(0),
    high: Float64Array.of(NaN),
  };
  assert.equal(valuesAt([{ ...line, bad: Float64Array.of(1) }], 0, false)[0].text, "loss not finite");
  assert.equal(valuesAt([line], 0, false)[0].text, "loss –");
  assert.equal(describe(line), "loss not known");
});

test("on a logarithmic axis values are powers of ten, zero lies a decade below the smallest, and NaN is a gap", () => {
  const line = {
    label: "",
    colour: "",
    first: Float64Array.of(0, 1, 2, 3),
    last: Float64Array.of(0, 1, 2, 3),
    high: Float64Array.of(100, NaN, 0, 1e30),
  };
  const [steps, values] = tableOf([line], true);
  assert.deepEqual([...steps], [0, 1, 2, 3]);
  assert.deepEqual([...values], [2, null, 1, 30]);
});

test("an axis has room around what is drawn, and exists where nothing is", () => {
  assert.deepEqual(yRange(null, null, true), [-1, 1]);
  assert.deepEqual(yRange(null, null, false), [0, 1]);
  assert.deepEqual(yRange(2, 2, false), [1.8, 2.2]);
  const [low, high] = yRange(1, 5, true);
  assert.ok(low < 1 && high > 5);
});

test("the facts of a run leave out what did not happen", () => {
  const quiet = factsOf(overview()).join(" · ");
  assert.match(quiet, /^Net · SGD lr 0.1 · steps 0 to 99, 100 recorded · finished · total norm: median 1/);
  assert.doesNotMatch(quiet, /dropped|skipped|damaged|NaN/);
  const facts = factsOf(overview({ nonfinite_steps: 1, skipped_steps: 2, damaged_rows: 1, running: true })).join(" · ");
  assert.match(facts, /still running · .*NaN or infinite at 1 step · 2 steps skipped · 1 damaged row of the store/);
});

test("a run without an end is running only while its process is alive", () => {
  assert.match(
    factsOf(overview({ learning_rate: 4e-8, highest_learning_rate: 0.01 })).join(),
    /lr 4e-8 \(highest 0.01\)/,
  );
  assert.match(factsOf(overview({ running: true, ended: null })).join(), /still running/);
  assert.match(factsOf(overview({ running: false, ended: null })).join(), /its process is gone/);
  assert.match(factsOf(overview({ running: false, ended: "exit" })).join(), /finished/);
  const interrupted = overview({ running: false, ended: "exception KeyboardInterrupt" });
  assert.match(factsOf(interrupted).join(), /interrupted \(Ctrl-C\)/);
});

test("columns that follow each other are one span; a gap, or infinity beside NaN, begins another", () => {
  const steps = (/** @type {number[]} */ ...values) => Float64Array.from(values);
  const spans = spansOf(steps(0, 4, 8, 20), steps(3, 7, 11, 23), steps(1, 2, 1, 1), steps(0, 0, 1, 0));
  assert.deepEqual(spans, [
    { first: 0, last: 7, infinite: false },
    { first: 8, last: 11, infinite: true },
    { first: 20, last: 23, infinite: false },
  ]);
});

test("a loss that was never finite is drawn: as columns, without a line", () => {
  const lost = series(3, { "loss.bad": [1, 1, 1] });
  assert.deepEqual(
    lossLines(only(lost)).map((line) => line.label),
    ["loss"],
  );
  assert.deepEqual(lossLines(only(series(3))), [], "a loss that was not recorded is not");
});

/** @param {number[]} values @param {Partial<import("../../dashboards/types.d.ts").Line>} [more] */
function lineOfValues(values, more = {}) {
  const steps = Float64Array.from(values, (_, i) => i);
  return { label: "", colour: "red", first: steps, last: steps, high: Float64Array.from(values), ...more };
}

test("an axis ends at 100 times the median, and what rises above it is marked", () => {
  const line = lineOfValues([1, 1, 1, 1e19, NaN]);
  assert.equal(capOf([line]), 100);
  assert.deepEqual(above([line], 100), [{ step: 3, colour: "red" }]);
  assert.equal(cutText(above([line], 100), 100), "▲ above 100");
  assert.equal(cutText([], Infinity), "");
  assert.deepEqual([...tableOf([line], true, 100)[1]], [0, 0, 0, 2, null]);
});

test("an axis without an outlier is not cut", () => {
  for (const values of [[1, 2, 99], [], [NaN], [-1, -2, 90], [0, 0, 5]])
    assert.equal(capOf([lineOfValues(values)]), Infinity, String(values));
  assert.deepEqual(above([lineOfValues([1, 1e9])], Infinity), []);
});

test("an axis of values around zero ends at 100 times their median magnitude", () => {
  assert.equal(
    capOf([lineOfValues([-3, 0.01, 2, -0.02, 1.5, 1])]),
    Infinity,
    "the loss of a critic has no outlier here",
  );
  assert.equal(capOf([lineOfValues([-1, -2, -2, 1e9])]), 200);
});

test("a threshold far above decides nothing and is not drawn above the axis", () => {
  const threshold = lineOfValues([1e9, 1e9, 1e9], { reference: true });
  const line = lineOfValues([1, 1, 1000]);
  assert.equal(capOf([lineOfValues([1, 1, 2]), threshold]), Infinity);
  assert.deepEqual([...tableOf([line, threshold], true, 100)[2]], [null, null, null]);
  assert.deepEqual(above([threshold], 100), []);
});

test("of several runs the one with the highest level decides where the axis ends", () => {
  assert.equal(capOf([lineOfValues([1, 1, 1e9]), lineOfValues([50, 50, 50])]), 5000);
});

test("a value between gaps stands alone; steps of other runs are no gaps", () => {
  assert.deepEqual(isolated([1]), [0]);
  assert.deepEqual(isolated([1, 2, null, 3, null, null, 4, 5]), [3]);
  assert.deepEqual(isolated([1, undefined, 2, undefined]), []);
  assert.deepEqual(isolated([undefined, 1, undefined, null]), [1]);
  assert.deepEqual(isolated([null, undefined]), []);
});

test("updates that are read at every third step are one line, with that of the sentinels below it", () => {
  const every = { ...band("rms_ratio", [1, NaN, NaN, 2, NaN, NaN, 3]) };
  const few = band("sentinel_rms_ratio", [1, 1, 9, 1, 1, 1, 1]);
  const drawn = (/** @type {any} */ given) => {
    const overviews = /** @type {any} */ ({ a: { overview: { ...overview(), updates_every: 3 } } });
    return updateLines("rms_ratio")({ runs: drawnRuns(["a"], "a", { a: given }, overviews), theme, trial: null });
  };
  const [alone] = drawn(series(7, every));
  assert.deepEqual([alone.label, [...alone.first], [...alone.high]], ["rms_ratio", [0, 3, 6], [1, 2, 3]]);
  assert.deepEqual([...(alone.low ?? [])], [1, 2, 3]);
  const [each, all] = drawn(series(7, { ...every, ...few }));
  assert.deepEqual([each.label, all.label], ["of the sentinels, each step", "rms_ratio of all, every 3 steps"]);
  assert.deepEqual([each.high[2], each.first.length, [...all.first]], [9, 7, [0, 3, 6]]);
});

test("a gap that is longer than usual stays a gap, and a line that is read at each step stays as it is", () => {
  const [gap] = updateLines("update_norm")(only(series(9, band("update_norm", [1, NaN, 2, NaN, NaN, NaN, 3, NaN, 4]))));
  assert.deepEqual(
    [[...gap.first], [...gap.high]],
    [
      [0, 2, 3, 6, 8],
      [1, 2, NaN, 3, 4],
    ],
  );
  const skipped = series(4, band("update_norm", [1, 2, NaN, 4]));
  assert.equal(updateLines("update_norm")(only(skipped))[0].first, skipped.first);
});
