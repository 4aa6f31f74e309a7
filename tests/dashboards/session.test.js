import assert from "node:assert/strict";
import { test } from "node:test";
import { actionsOf } from "../../dashboards/actions.js";
import { Session } from "../../dashboards/session.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { event, memory, overview } from "./support.js";

const settled = () => new Promise((resolve) => setTimeout(resolve, 150));

/** @param {Parameters<typeof memory>} given */
async function opened(...given) {
  const { source, asked } = memory(...given);
  let changes = 0;
  const session = new Session(source, { changed: () => changes++, columns: () => 100 });
  await session.reload();
  return { session, asked, on: actionsOf(session), changes: () => changes };
}

test("after opening the first run is shown whole", async () => {
  const { session } = await opened({ a: {}, b: {} });
  assert.equal(session.state.focus, "a");
  assert.deepEqual(session.range, [-0.5, 99.5]);
  assert.equal(session.data.tile?.about.stat, "norm");
});

test("moving shows itself at once, and asks when it is over", async () => {
  const { session, asked, on, changes } = await opened({ a: {} });
  asked.length = 0;
  const before = changes();
  on.zoomTo(10, 50);
  on.pan(0.5);
  on.zoomBy(0.5, 50);
  assert.deepEqual(session.range, [40, 60]);
  assert.deepEqual([changes() - before, asked.length], [3, 0]);
  await settled();
  assert.deepEqual(asked, ["series a 40 60 100", "tile a norm 40 60 100", "distribution a 40 60 1"]);
  on.showAll();
  assert.equal(session.state.zoom, null);
  await settled();
});

test("ticking a second run keeps zoom, event and layer", async () => {
  const events = [event(50, { parameter: "encoder.0.bias" })];
  const { session, on } = await opened({ a: { events }, b: {} });
  await on.chooseEvent(events[0]);
  const { zoom, layer } = session.state;
  await on.toggleRun("b");
  assert.deepEqual([session.state.zoom, session.state.layer, session.event], [zoom, layer, events[0]]);
  assert.deepEqual(Object.keys(session.data.series), ["a", "b"]);
  assert.ok(session.data.tile, "what was shown of the layers stays");
});

test("a click near a mark chooses its event; a click elsewhere changes nothing", async () => {
  const events = [event(50)];
  const { session, on } = await opened({ a: { events } });
  on.chooseNear((step) => step - 80);
  assert.equal(session.event, null);
  on.chooseNear((step) => step - 45);
  assert.equal(session.event, events[0]);
});

test("another run in the focus has layers of its own", async () => {
  const { session, on } = await opened({ a: {}, b: {} });
  const done = on.focusRun("b");
  assert.deepEqual([session.data.layers, session.data.tile, session.data.advice], [null, null, null]);
  await done;
  assert.ok(session.data.tile);
});

test("a reload keeps what the reader chose, and forgets an event that is gone", async () => {
  const events = [event(50)];
  const { session, on } = await opened({ a: { events } });
  await on.chooseEvent(events[0]);
  await on.look({ trial: 3, stat: "zeros" });
  const state = session.state;
  await session.reload();
  assert.deepEqual(session.state, state);
  assert.deepEqual(session.event, events[0]);
  events.length = 0;
  await session.reload();
  assert.equal(session.event, null);
});

test("a source that does not answer is a problem in words", async () => {
  const { session } = await opened({ a: {} }, { list: () => Promise.reject(new Error("offline")) });
  assert.equal(session.data.problem, "offline");
});

test("an empty folder has nothing in the focus and no problem", async () => {
  const { session, asked } = await opened({});
  assert.deepEqual([session.state.focus, session.data.problem, asked.length], [null, null, 1]);
});

test("a run with several optimizers opens with the one in trouble, and stays with the one that was chosen", async () => {
  const events = [event(5, { optimizer: "critic", severity: "critical" })];
  const runs = { a: { events, optimizers: ["generator", "critic"] } };
  const named = (/** @type {any} */ query) => ({ ...runs.a, optimizer: query.optimizer ?? "generator" });
  const { session, on } = await opened(runs, { overview: async (query) => overview(named(query)) });
  await settled();
  assert.equal(session.overview?.optimizer, "critic");
  await on.chooseOptimizer("generator");
  await session.reload();
  assert.equal(session.overview?.optimizer, "generator");
});

test("the keys for events go through them in the order of steps, and Escape closes the story", async () => {
  const events = [event(70), event(20)];
  const { session, on } = await opened({ a: { events } });
  on.nextEvent(1);
  assert.equal(session.event, events[1]);
  on.nextEvent(1);
  assert.equal(session.event, events[0]);
  on.nextEvent(1);
  assert.equal(session.event, events[0], "there is none after the last");
  on.closeEvent();
  assert.equal(session.event, null);
  assert.equal(session.data.story, null);
  await settled();
});

test("steps from an address that the run does not have are brought into it", async () => {
  const { source } = memory({ a: {} });
  const state = { ...INITIAL, slots: ["a"], focus: "a", zoom: /** @type {[number, number]} */ ([90, 500]) };
  const session = new Session(source, { changed: () => {}, columns: () => 100 }, state);
  await session.reload();
  assert.equal(session.state.zoom, null, "410 steps are more than there are");
});

test("runs whose verdicts are still to come are listed again until they are there", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let pending = 2;
  const list = async () => ({
    runs: [{ name: "a", verdict: null, error: null, pending: pending-- > 0 }],
    folders: [],
  });
  const { session, asked, changes } = await opened({ a: {} }, { list });
  const listed = () => asked.filter((question) => question === "list").length;
  assert.equal(listed(), 1);
  for (const times of [2, 3, 3]) {
    const before = changes();
    context.mock.timers.tick(1500);
    for (let i = 0; i < 5; i++) await Promise.resolve();
    assert.equal(listed(), times);
    assert.ok(times === 3 || changes() > before);
  }
  assert.equal(session.listing?.runs[0].pending, false);
});

test("values chosen for the axis of a chart stay while steps change, and showing everything ends them", async () => {
  const { session, on } = await opened({ a: {} });
  await on.zoomValues("loss", [0.1, 2]);
  await on.zoomValues("total norm", [1, 3]);
  on.zoomTo(10, 50);
  assert.deepEqual(session.state.values, { loss: [0.1, 2], "total norm": [1, 3] });
  on.showAll();
  assert.deepEqual([session.state.values, session.state.zoom], [{}, null]);
  await settled();
});
