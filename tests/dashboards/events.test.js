import assert from "node:assert/strict";
import { test } from "node:test";
import {
  eventKey,
  gravest,
  gravity,
  madeAgain,
  marked,
  nearestEvent,
  optimizerInTrouble,
} from "../../dashboards/state/events.js";
import { event, overview, random } from "./support.js";

const here = (/** @type {number} */ step) => step;

test("a graver event is never hidden by a milder one nearby", () => {
  const events = [event(10), event(11, { severity: "critical" }), event(12), event(12, { severity: "info" })];
  assert.deepEqual(
    marked(events, here, 3).map((one) => one.severity),
    ["critical"],
  );
});

test("marks come mildest first, so that the gravest is drawn on top", () => {
  const events = [event(0, { severity: "critical" }), event(10, { severity: "info" }), event(20)];
  assert.deepEqual(
    marked(events, here, 3).map((one) => one.severity),
    ["info", "warning", "critical"],
  );
});

test("of any events those without a mark have an equally grave one within the gap, and no two marks are nearer", () => {
  const next = random(8);
  const severities = /** @type {const} */ (["info", "warning", "critical"]);
  for (let i = 0; i < 200; i++) {
    const events = Array.from({ length: 40 }, () =>
      event(Math.floor(100 * next()), { severity: severities[Math.floor(3 * next())] }),
    );
    const kept = marked(events, here, 3);
    for (const one of events)
      assert.ok(kept.some((other) => Math.abs(other.step - one.step) < 3 && gravity(other) >= gravity(one)));
    for (const [a, one] of kept.entries())
      for (const other of kept.slice(a + 1)) assert.ok(Math.abs(one.step - other.step) >= 3);
  }
});

test("the chosen event has a mark, on top of all", () => {
  const chosen = event(11, { severity: "info" });
  assert.deepEqual(marked([event(10, { severity: "critical" }), chosen], here, 3, chosen).at(-1), chosen);
});

test("the nearest event within reach is found; of equally near ones the gravest", () => {
  const events = [event(10), event(10, { severity: "critical" }), event(30)];
  const from = (/** @type {number} */ place) => (/** @type {number} */ step) => step - place;
  assert.equal(nearestEvent(events, from(12), 8), events[1]);
  assert.equal(nearestEvent(events, from(25), 8), events[2]);
  assert.equal(nearestEvent(events, from(20), 8), null);
  assert.equal(nearestEvent([], from(20), 8), null);
});

test("the gravest event is the first of the gravest severity", () => {
  const events = [event(1), event(2, { severity: "critical" }), event(3, { severity: "critical" })];
  assert.equal(gravest(events), events[1]);
  assert.equal(gravest([]), null);
});

test("a run begins with the optimizer whose event is the gravest", () => {
  const events = [event(1, { optimizer: "g" }), event(9, { optimizer: "d", severity: "critical" })];
  assert.equal(optimizerInTrouble(overview({ optimizers: ["g", "d"], optimizer: "g", events })), "d");
  assert.equal(optimizerInTrouble(overview({ optimizers: ["g", "d"], optimizer: "g" })), "g");
  assert.equal(optimizerInTrouble(overview({ optimizer: "0", events: [event(1, { optimizer: "gone" })] })), "0");
});

test("an event has the same key after a reload, and another one than its neighbours", () => {
  assert.equal(eventKey(event(3, { message: "at first" })), eventKey(event(3, { message: "later" })));
  const others = [event(4), event(3, { kind: "drift" }), event(3, { optimizer: "1" }), event(3, { parameter: "w" })];
  others.push(event(3, { attempt: 1 }));
  assert.equal(new Set([event(3), ...others].map(eventKey)).size, 6);
  assert.equal(eventKey(event(3, { attempt: 0 })), eventKey(event(3)));
});

test("an event whose step was made again says so", () => {
  assert.equal(madeAgain(event(3, { attempt: 0, made_again_by: 2 })), "of attempt 0, made again by attempt 2");
  assert.equal(madeAgain(event(3, { attempt: 1 })), "");
});
