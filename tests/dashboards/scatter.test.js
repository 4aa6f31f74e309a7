import assert from "node:assert/strict";
import { test } from "node:test";
import { stretches } from "../../dashboards/chart/marks.js";
import { runColour, stepColours } from "../../dashboards/draw/colours.js";
import { evenTicks } from "../../dashboards/draw/scales.js";
import { brushAround, nearestPoint, nextPoint, ordered } from "../../dashboards/scatter/moves.js";
import { coverage, pointText, selectionText, tableOf } from "../../dashboards/scatter/text.js";
import {
  axesOf,
  cloudOf,
  offered,
  partOf,
  scaleOf,
  selectedIn,
  stepsOf,
  valueAt,
} from "../../dashboards/scatter/values.js";
import { random, scatter } from "./support.js";

/** @type {[string, string]} */
const AXES = ["loss", "total_norm"];
/** @type {[number, number]} */
const ALL = [-Infinity, Infinity];

/** @param {Record<string, number[]>} given @param {string} [name] @param {number} [every] */
const runOf = (given, name = "run", every = 1) => ({
  name,
  slot: 0,
  focused: name === "run",
  scatter: scatter(given, every),
});

/** @param {number} size @param {number} seed */
const some = (size, seed) => {
  const next = random(seed);
  const value = () => (next() < 0.1 ? [NaN, Infinity, 0][Math.floor(3 * next())] : 10 ** (6 * next() - 3));
  return { total_norm: Array.from({ length: size }, value), loss: Array.from({ length: size }, value) };
};

test("every point with two finite values is drawn, and every other one is counted", () => {
  for (const seed of [1, 2, 3]) {
    const given = some(200, seed);
    const cloud = cloudOf([runOf(given)], AXES, ALL);
    const finite = given.loss.filter((loss, i) => Number.isFinite(loss) && Number.isFinite(given.total_norm[i])).length;
    assert.equal(cloud.x.length, finite);
    for (const [i, step] of cloud.step.entries())
      assert.deepEqual([cloud.x[i], cloud.y[i]], [given.loss[step], given.total_norm[step]]);
    const [told] = coverage(cloud, AXES, ALL);
    assert(told.startsWith(`${finite} points of 200 steps (steps 0 to 199).`), told);
    assert(told.includes(`${200 - finite} steps can't be drawn`), told);
    assert(told.includes(`loss NaN at ${given.loss.filter(Number.isNaN).length}`), told);
    assert(told.includes(`total norm infinite at ${given.total_norm.filter((one) => one === Infinity).length}`), told);
  }
});

test("a sample says that it is one, and a range without a bad step says nothing of them", () => {
  const given = { total_norm: [1, 2, 3, 4], loss: [1, 1, 1, 1] };
  const cloud = cloudOf([runOf(given, "run", 2)], AXES, ALL);
  assert.deepEqual(coverage(cloud, AXES, ALL), [
    "2 points of 4 steps (steps 0 to 3), a sample that keeps the least and the largest of each quantity.",
  ]);
  assert.deepEqual(coverage(cloudOf([runOf(given)], AXES, ALL), AXES, ALL), ["4 points of 4 steps (steps 0 to 3)."]);
  assert.deepEqual(coverage(cloudOf([runOf(given)], AXES, [50, 60]), AXES, [50, 60]), ["0 points of 0 steps."]);
});

test("a part of a file's span is counted by its points if it holds every step, and says so if it is a sample", () => {
  const given = { total_norm: [1, NaN, Infinity, 4, 5, 6], loss: [1, 1, 1, 1, NaN, 1] };
  const told = (/** @type {number} */ every, /** @type {[number, number]} */ range) =>
    coverage(cloudOf([runOf(given, "run", every)], AXES, range), AXES, range)[0];
  assert.equal(
    told(1, [2.5, 4.5]),
    "1 point of 2 steps (steps 3 to 4). 1 step can't be drawn: loss NaN or unknown at 1.",
  );
  assert.equal(
    told(1, [1.5, 3.5]),
    "1 point of 2 steps (steps 2 to 3). 1 step can't be drawn: total norm infinite at 1.",
  );
  assert.match(told(2, [1.5, 3.5]), /^0 points of 6 steps \(steps 0 to 5\), a sample that/);
});

test("points are those of the steps in view, of all runs", () => {
  const runs = [runOf({ total_norm: [1, 2, 3], loss: [4, 5, 6] }), runOf({ total_norm: [7], loss: [8] }, "other")];
  const cloud = cloudOf(runs, AXES, [-0.5, 1.5]);
  assert.deepEqual([...cloud.step], [0, 1, 0]);
  assert.deepEqual([...cloud.run], [0, 0, 1]);
  assert.match(pointText(cloud, 2, AXES), /^other: step 0, loss 8, total norm 7$/);
  assert.deepEqual(stepsOf(cloud, [2, 1, 0]), [0, 1]);
  assert.deepEqual(
    stepsOf(cloud, [0, 1, 2], ({ focused }) => !focused),
    [0],
  );
});

test("a quantity that was not recorded is not offered, and another one takes its place", () => {
  const runs = [runOf({ total_norm: [1, 2], loss: [NaN, NaN], learning_rate: [0.1, 0.1] })];
  assert.deepEqual(offered(runs), ["total_norm", "learning_rate"]);
  assert.deepEqual(axesOf("loss total_norm", offered(runs)), ["learning_rate", "total_norm"]);
  assert.deepEqual(axesOf("total_norm total_norm", offered(runs)), ["learning_rate", "total_norm"]);
  assert.deepEqual(axesOf("", offered(runs)), ["learning_rate", "total_norm"]);
  assert.deepEqual(axesOf("total_norm learning_rate", offered(runs)), ["total_norm", "learning_rate"]);
  assert.equal(axesOf("loss total_norm", ["total_norm"]), null);
});

/** The value that an axis gives back of one that lies on it. @param {number[]} values @param {boolean} log @param {number} value */
const back = (values, log, value) => {
  const scale = scaleOf(Float64Array.from(values), log);
  assert(scale.low < scale.high && Number.isFinite(scale.high - scale.low), `${values}`);
  const part = partOf(scale, value);
  assert(part >= 0 && part <= 1, `${value} at ${part}`);
  return { found: valueAt(scale, part), room: scale.log ? 0 : 1e-6 * (scale.high - scale.low) };
};

test("an axis holds all values, however far apart, and gives each back", () => {
  const cases = [[1, 2], [5], [0], [0, 0], [0, 1e-7], [-3, 4], [1e-300, 1e300], [1e-9, 1e19]];
  for (const values of cases)
    for (const value of values)
      for (const log of [false, Math.min(...values) >= 0]) {
        const { found, room } = back(values, log, value);
        assert(Math.abs(found - value) <= 1e-6 * Math.abs(value) + room, `${value} ${found}`);
      }
  assert.deepEqual(scaleOf(new Float64Array(), true), { low: 0, high: 1, log: false });
  assert.equal(scaleOf(Float64Array.of(0, 2), true).log, true, "zero lies at the lower end");
  assert.equal(scaleOf(Float64Array.of(0, 2), false).log, false);
  assert.equal(scaleOf(Float64Array.of(1, 200), false).log, true);
  assert.equal(scaleOf(Float64Array.of(-1, 200), false).log, false);
});

test("a rectangle selects the points within it, its sides and a zero at the end of an axis included", () => {
  const cloud = cloudOf([runOf({ total_norm: [0, 1, 2, 3], loss: [1, 2, 3, 4] })], AXES, ALL);
  assert.deepEqual(selectedIn(cloud, null), []);
  assert.deepEqual(selectedIn(cloud, [2, 3, 0, 9]), [1, 2]);
  assert.deepEqual(selectedIn(cloud, [0, 9, valueAt(cloud.up, 0), 1]), [0, 1]);
  assert.deepEqual(selectedIn(cloud, [8, 9, 8, 9]), []);
  assert.equal(selectionText(cloud, [1, 2], [1, 2]), "2 points of 4 selected, between steps 1 to 2");
  assert.equal(selectionText(cloud, [1], [1]), "1 point of 4 selected, step 1");
  assert.equal(selectionText(cloud, [], []), "no point is selected");
});

test("the arrow keys reach every point, and Shift selects what lies between two", () => {
  const given = some(80, 7);
  const cloud = cloudOf([runOf(given)], AXES, ALL);
  for (const axis of /** @type {const} */ (["x", "y"])) {
    const order = ordered(cloud, axis);
    const seen = new Set();
    let at = nextPoint(order, null, 1);
    for (let i = 0; i < cloud.x.length; i++) {
      assert(at !== null);
      seen.add(at);
      const next = nextPoint(order, at, 1);
      assert(next !== null && cloud[axis][next] >= cloud[axis][at]);
      if (i + 1 < cloud.x.length) assert.equal(nextPoint(order, next, -1), at);
      at = next;
    }
    assert.equal(seen.size, cloud.x.length);
    assert.equal(nextPoint(order, null, -1), order.at(-1));
    assert.equal(nextPoint(order, order[order.length - 1], 1), order.at(-1));
  }
  assert.equal(nextPoint([], null, 1), null);
  const brush = brushAround(cloud, 3, 9);
  assert(selectedIn(cloud, brush).includes(3) && selectedIn(cloud, brush).includes(9));
});

test("the nearest point is within reach or none", () => {
  const cloud = cloudOf([runOf({ total_norm: [1, 2, 3], loss: [1, 2, 3] })], AXES, ALL);
  assert.equal(
    nearestPoint(cloud, (i) => Math.abs(i - 1.2), 1),
    1,
  );
  assert.equal(
    nearestPoint(cloud, () => 5, 1),
    null,
  );
});

test("the table has the selected points with all digits, or says how many more there are", () => {
  const cloud = cloudOf([runOf(some(400, 9))], AXES, ALL);
  const { caption, rows } = tableOf(cloud, [], AXES);
  assert.equal(caption, `the first 50 of ${cloud.x.length} points`);
  assert.equal(rows.length, 51);
  const chosen = tableOf(cloud, [4, 5], AXES);
  assert.equal(chosen.caption, "selected points");
  assert.deepEqual(chosen.rows[0], ["run", "step", "loss", "total norm"]);
  assert.deepEqual(Math.fround(Number(chosen.rows[1][2])), Math.fround(cloud.x[4]));
});

test("selected steps that touch each other are one mark, and a lone one is wide enough to see", () => {
  const x = (/** @type {number} */ step) => 100 + 0.1 * step;
  assert.deepEqual(stretches([], x, 1), []);
  const [first, second] = stretches([0, 1, 2, 500], x, 1);
  assert.deepEqual([first[0], second[0]], [x(-0.5), x(499.5)]);
  assert(first[1] - first[0] >= 2 && second[1] - second[0] >= 2);
  assert.equal(stretches([...Array(1000).keys()], x, 1).length, 1);
});

test("round numbers lie between the ends of an axis, and are not too many", () => {
  const next = random(3);
  for (let i = 0; i < 300; i++) {
    const low = 10 ** (10 * next() - 5) * (next() < 0.5 ? -1 : 1);
    const high = low + 10 ** (10 * next() - 5);
    const ticks = evenTicks(low, high, 6);
    assert(ticks.length >= 1 && ticks.length <= 6, `${low} ${high}: ${ticks}`);
    const slack = 1e-9 * Math.max(Math.abs(low), Math.abs(high));
    assert(ticks.every((tick) => tick >= low - slack && tick <= high + slack));
  }
  assert.deepEqual(evenTicks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1].slice(0, 5));
});

/** Relative luminance of WCAG 2. @param {number[]} rgb */
const luminance = (rgb) => {
  const [r, g, b] = rgb
    .map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

test("every point stands out from the background, three to one", () => {
  const grounds = { light: [255, 255, 255], dark: [0x1e, 0x1f, 0x22] };
  for (const theme of /** @type {const} */ (["light", "dark"])) {
    const back = luminance(grounds[theme]);
    const runs = [0, 1, 2, 3, 4, 5].map((slot) => runColour(slot, theme));
    const triples = [
      ...stepColours(theme).map((text) => (text.match(/\d+/g) ?? []).map(Number)),
      ...runs.map((hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16))),
    ];
    for (const triple of triples) {
      const [low, high] = [back, luminance(triple)].sort((a, b) => a - b);
      assert((high + 0.05) / (low + 0.05) >= 3, `${theme} ${triple}`);
    }
  }
});
