import assert from "node:assert/strict";
import { test } from "node:test";
import { calm } from "../../dashboards/data/address.js";

function written() {
  /** @type {string[]} */
  const texts = [];
  const href = () => `page#${texts.at(-1) ?? ""}`;
  const write = (/** @type {string} */ text) => void texts.push(text);
  return { texts, address: calm({ read: () => "", write, href, whenChanged: () => {} }) };
}

test("the first of a series of states is in the address at once, and the last one when the series has ended", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { texts, address } = written();
  address.write("a");
  assert.deepEqual(texts, ["a"]);
  for (const text of ["b", "c", "d"]) {
    context.mock.timers.tick(199);
    address.write(text);
  }
  assert.deepEqual(texts, ["a"]);
  context.mock.timers.tick(200);
  assert.deepEqual(texts, ["a", "d"]);
  address.write("e");
  assert.deepEqual(texts, ["a", "d", "e"]);
  context.mock.timers.tick(1000);
  assert.deepEqual(texts, ["a", "d", "e"]);
});

test("a link that is copied in the middle of a series leads to what is shown then", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { texts, address } = written();
  assert.equal(address.href(), "page#");
  address.write("a");
  address.write("b");
  assert.equal(address.href(), "page#b");
  context.mock.timers.tick(1000);
  assert.deepEqual(texts, ["a", "b"]);
});
