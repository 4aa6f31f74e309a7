import assert from "node:assert/strict";
import { test } from "node:test";
import { Loader } from "../../dashboards/data/loader.js";
import { eventKey } from "../../dashboards/state/events.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { event, memory, tile } from "./support.js";

/** @typedef {Partial<import("../../dashboards/data/loader.js").Data>} News */
/** @type {import("../../dashboards/types.d.ts").State} */
const STATE = { ...INITIAL, slots: ["a"], focus: "a" };

/** @param {import("../../dashboards/types.d.ts").Source} source */
function listening(source) {
  /** @type {News[]} */
  const news = [];
  return { news, loader: new Loader(source, (piece) => news.push(piece)) };
}

test("what a reader looks at first is asked for first, and nothing twice", async () => {
  const { source, asked } = memory({ a: {} });
  const { loader, news } = listening(source);
  await loader.load(STATE, 100);
  assert.deepEqual(
    asked.map((question) => question.split(" ")[0]),
    ["overview", "series", "layers", "tile", "distribution", "advice"],
  );
  assert.deepEqual(
    news.map((piece) => Object.keys(piece)[0]),
    ["overviews", "series", "layers", "whole", "distribution", "advice"],
  );
});

test("the same state is answered from what is kept, and asked for again after `forget`", async () => {
  const { source, asked } = memory({ a: {} });
  const { loader, news } = listening(source);
  await loader.load(STATE, 100);
  await loader.load(STATE, 100);
  assert.equal(asked.length, 6);
  assert.equal(news.length, 12);
  loader.forget();
  await loader.load(STATE, 100);
  assert.equal(asked.length, 12);
});

test("a zoom asks for its steps only", async () => {
  const { source, asked } = memory({ a: {} });
  const { loader } = listening(source);
  await loader.load(STATE, 100);
  asked.length = 0;
  await loader.load({ ...STATE, zoom: [10, 20] }, 100);
  assert.deepEqual(asked, ["series a 10 20 100", "tile a norm 10 20 100", "distribution a 10 20 1"]);
});

test("points are asked for only while the plot is open, and stay the same object while they hold the same", async () => {
  const { source, asked } = memory({ a: {}, b: {} });
  const { loader, news } = listening(source);
  const open = { ...STATE, slots: ["a", "b"], plot: "loss total_norm" };
  await loader.load(STATE, 100);
  assert(!asked.some((question) => question.startsWith("scatter")));
  await loader.load(open, 100);
  await loader.load({ ...open, brush: [0, 1, 0, 1] }, 100);
  assert.deepEqual(
    asked.filter((question) => question.startsWith("scatter")),
    ["scatter a -0.5 99.5 4000", "scatter b -0.5 99.5 4000"],
  );
  const [first, second, ...more] = news.flatMap((piece) => (piece.scatter ? [piece.scatter] : []));
  assert.deepEqual(Object.keys(first), ["a", "b"]);
  assert.equal(first, second);
  assert.equal(more.length, 0);
});

test("an answer that is no longer wanted is dropped", async () => {
  /** @type {(() => void)[]} */
  const waiting = [];
  const { source } = memory(
    { a: {} },
    { tile: (_, stat) => new Promise((resolve) => waiting.push(() => resolve(tile(stat, [[1]])))) },
  );
  const { loader, news } = listening(source);
  const slow = loader.load({ ...STATE, stat: "zeros" }, 100);
  while (!waiting.length) await new Promise((resolve) => setTimeout(resolve));
  const quick = loader.load(STATE, 100);
  while (waiting.length < 2) await new Promise((resolve) => setTimeout(resolve));
  for (const answer of waiting) answer();
  await Promise.all([slow, quick]);
  assert.deepEqual(
    news.flatMap((piece) => piece.tile?.about.stat ?? []),
    ["norm"],
  );
});

test("a run that can't be read does not keep the others from being shown", async () => {
  const { source } = memory({ a: {}, b: {} });
  const answer = source.overview;
  source.overview = (query) => (query.run === "b" ? Promise.reject(new Error("no store")) : answer(query));
  const { loader, news } = listening(source);
  await loader.load({ ...STATE, slots: ["a", "b"] }, 100);
  assert.equal(news[0].overviews?.b.error, "no store");
  assert.equal(news[0].problem, null);
  assert.deepEqual(Object.keys(news[1].series ?? {}), ["a"]);
});

test("if the run in the focus can't be read, that is the problem, and the next look asks again", async () => {
  let broken = true;
  const { source } = memory({ a: {} });
  const answer = source.overview;
  source.overview = (query) => (broken ? Promise.reject(new Error("no store")) : answer(query));
  const { loader, news } = listening(source);
  await loader.load(STATE, 100);
  assert.deepEqual(
    news.map((piece) => piece.problem),
    ["no store"],
  );
  broken = false;
  await loader.load(STATE, 100);
  assert.equal(news[1].problem, null);
});

test("a failing answer is a problem in words", async () => {
  const { source } = memory({ a: {} }, { series: () => Promise.reject(new Error("500 oops")) });
  const { loader, news } = listening(source);
  await loader.load(STATE, 100);
  assert.equal(news.at(-1)?.problem, "500 oops");
});

test("a run without layers has no tile and still has advice", async () => {
  const { source, asked } = memory(
    { a: {} },
    { layers: async () => ({ layers: [], ranks: 0, telling: [], stats: [] }) },
  );
  const { loader } = listening(source);
  await loader.load(STATE, 100);
  assert.deepEqual(
    asked.map((question) => question.split(" ")[0]),
    ["overview", "series", "layers", "distribution", "advice"],
  );
});

test("a chosen event has its story: every step around it", async () => {
  const events = [event(50)];
  const { source, asked } = memory({ a: { events } });
  const { loader, news } = listening(source);
  await loader.load({ ...STATE, event: eventKey(events[0]), zoom: [10, 90] }, 100);
  assert.ok(asked.includes("series a 39.5 60.5 100"));
  assert.ok(asked.includes("tile a norm 39.5 60.5 100"));
  const [first] = news.flatMap(({ story }) => story ?? []);
  assert.ok(first.tile && first.series);
  await loader.load({ ...STATE, event: eventKey(events[0]), zoom: [10, 80] }, 100);
  assert.equal(news.flatMap(({ story }) => story ?? []).at(-1), first, "another zoom changes nothing in it");
});

test("the story of a run without layers has no tile", async () => {
  const events = [event(50)];
  const without = { layers: [], ranks: 0, telling: [], stats: [] };
  const { source } = memory({ a: { events } }, { layers: async () => without });
  const { loader, news } = listening(source);
  await loader.load({ ...STATE, event: eventKey(events[0]) }, 100);
  assert.deepEqual(
    news.flatMap(({ story }) => story ?? []).map(({ tile }) => tile),
    [null],
  );
});

test("a comparison asks for the layers of the other run, where they part, and its tiles", async () => {
  const { source, asked } = memory({ a: {}, b: {}, gan: { optimizer: "g", optimizers: ["g", "d"] } });
  const { loader, news } = listening(source);
  const state = { ...STATE, slots: ["a", "b"], stat: "against" };
  await loader.load(state, 100);
  assert(asked.includes("parting a b"));
  assert(asked.includes("layers b"));
  assert.deepEqual(
    asked.filter((question) => question.startsWith("tile")).map((question) => question.split(" ").slice(0, 3)),
    [
      ["tile", "a", "norm"],
      ["tile", "b", "norm"],
    ],
  );
  assert.equal(news.find((piece) => piece.other)?.other?.parting.step, 1);
  const whole = news.find((piece) => piece.whole)?.whole;
  assert.deepEqual([...(whole?.arrays.values ?? [])], [1, 1, 1], "the runs are alike");
  asked.length = 0;
  await loader.load({ ...state, slots: ["a", "gan"] }, 100);
  assert(!asked.some((question) => question.startsWith("parting")), "they have no optimizer in common");
});
