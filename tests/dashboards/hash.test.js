import assert from "node:assert/strict";
import { test } from "node:test";
import { decoded, encoded } from "../../dashboards/state/hash.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { random } from "./support.js";

/** @type {import("../../dashboards/types.d.ts").State} */
const CHANGED = {
  slots: ["a&b=c#d", null, "läufe/2 %"],
  focus: "läufe/2 %",
  optimizers: { "läufe/2 %": "critic" },
  zoom: [-0.5, 1234567.25],
  stat: "relative",
  order: "trouble",
  depth: 2,
  filter: "^block\\.[0-9]+\\.(weight|bias)$",
  against: "a&b=c#d",
  inspected: ["a", "b & c"],
  layer: "<img src=x>",
  event: "500 explosion 0 block.8.weight",
  trial: 1.25e-4,
  pin: 0,
  wholeAxis: true,
  values: { "total norm": [1e-7, 2.5], loss: [-3, 0] },
  plot: "learning_rate total_norm",
  tint: "run",
  brush: [-1e-7, 1 / 3, 0, 1e21],
  find: "sweep",
  kind: "faulty",
  table: true,
  tables: true,
  sort: "-max_norm",
};

test("the first state needs no address", () => {
  assert.equal(encoded(INITIAL), "");
  assert.deepEqual(decoded(""), INITIAL);
});

test("every part of a state comes back from its address", () => {
  assert.deepEqual(decoded(encoded(CHANGED)), CHANGED);
  for (const name of /** @type {(keyof typeof CHANGED)[]} */ (Object.keys(CHANGED))) {
    if (["slots", "focus", "optimizers"].includes(name)) continue;
    const state = { ...INITIAL, [name]: CHANGED[name] };
    assert.deepEqual(decoded(encoded(state)), state, name);
  }
});

test("an address holds no character that ends a fragment or a word", () => {
  assert.match(encoded(CHANGED), /^[\w.%+&=*~()'!-]+$/);
});

test("what makes no sense in an address is as at first", () => {
  for (const text of [
    "steps=9_1",
    "steps=a_b",
    "steps=1",
    "depth=-3",
    "depth=x",
    "trial=0",
    "trial=-1",
    "axis=half",
    "y=loss",
    "y=loss_2_1",
    "y=_",
    "brush=1_2_3",
    "brush=1_0_0_1",
    "brush=0_1_x_1",
    "brush=0_1_0_1_2",
    "gone=1",
  ])
    assert.deepEqual(decoded(text), INITIAL, text);
  assert.equal(decoded("pin=x").pin, 0);
});

test("any text can be read as an address", () => {
  const next = random(7);
  for (let i = 0; i < 300; i++) {
    const text = String.fromCharCode(...Array.from({ length: 40 }, () => 32 + Math.floor(95 * next())));
    assert.equal(typeof decoded(text).stat, "string");
  }
});
