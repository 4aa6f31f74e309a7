import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { count, fit, number, share, span, steps, whole } from "../../dashboards/draw/text.js";
import { random } from "./support.js";

test("a number has three significant digits, whatever its size", () => {
  const expected = [
    [0.0123, "0.0123"],
    [123.456, "123"],
    [9999, "9999"],
    [12345.7, "12346"],
    [1.17e28, "1.17e28"],
    [1.25e-4, "1.25e-4"],
    [3e-5, "3e-5"],
    [1e-45, "1e-45"],
    [-2.5, "-2.5"],
    [0, "0"],
  ];
  for (const [value, text] of expected) assert.equal(number(/** @type {number} */ (value)), text);
});

test("what is no finite number is named, and what is unknown is a dash", () => {
  assert.deepEqual(
    [NaN, Infinity, -Infinity].map((value) => number(value)),
    ["NaN", "inf", "-inf"],
  );
  assert.deepEqual([number("Infinity"), number(null), number(undefined)], ["Infinity", "–", "–"]);
});

test("the text of any number reads back to within half a unit of its third digit", () => {
  const next = random(1);
  for (let i = 0; i < 2000; i++) {
    const value = 10 ** (60 * next() - 30) * (next() < 0.5 ? -1 : 1);
    const back = Number(number(value));
    assert.ok(Math.abs(back - value) <= 0.005001 * Math.abs(value), `${value} reads ${number(value)}`);
    assert.ok(number(value).length <= 9, number(value));
  }
});

test("numbers and shares read as in the terminal", () => {
  const known = JSON.parse(readFileSync(new URL("../golden/text.json", import.meta.url), "utf8"));
  for (const [value, text] of known.numbers) assert.equal(number(value), text);
  for (const [value, text] of known.shares) assert.equal(share(value), `${text}%`);
});

test("a small share is not told as none", () => {
  assert.deepEqual([0, 0.0004, 0.3333, 1].map(share), ["0%", "0.04%", "33.3%", "100%"]);
  assert.deepEqual([share(null), share("NaN")], ["–", "NaN"]);
});

test("amounts and steps", () => {
  assert.equal(whole(1234567.4), "1,234,567");
  assert.deepEqual([count(0, "step"), count(1, "step"), count(2000, "step")], ["0 steps", "1 step", "2,000 steps"]);
  assert.deepEqual([steps(5, 5), steps(0, 1999)], ["step 5", "steps 0 to 1,999"]);
});

test("a name is cut to the length asked for, and kept if it fits", () => {
  assert.equal(fit("abc", 3), "abc");
  for (const length of [3, 4, 9, 34]) {
    const cut = fit("transformer.attention.output.dense.weight.of.the.model", length);
    assert.equal(cut.length, length);
    assert.ok(cut.startsWith("t") && cut.endsWith("l") && cut.includes("…"));
  }
});

test("layers that differ in their number are told apart when their names are cut", () => {
  const name = (/** @type {number} */ i) => `encoder.layers.${i}.self_attn.in_proj.weight`;
  assert.equal(fit(name(10), 36), "…layers.10.self_attn.in_proj.weight");
  assert.equal(fit(name(10), 34), "…10.self_attn.in_proj.weight");
  for (const length of [16, 30, 34]) {
    const cut = Array.from({ length: 200 }, (_, i) => fit(name(i), length));
    assert.equal(new Set(cut).size, 200);
    assert.ok(cut.every((one) => one.length <= length));
  }
});

test("the ends of a band are told apart, with as many digits as that takes", () => {
  assert.equal(span(1, 5), "1 to 5");
  assert.equal(span(2.91e-4, 2.94e-4), "2.91e-4 to 2.94e-4");
  assert.equal(span(1.0001, 1.0002), "1.0001 to 1.0002");
  assert.equal(span(12345.6, 12345.7), "12345.6 to 12345.7");
  assert.equal(span(3, 3), "3");
  assert.equal(span(1, 1 + 1e-15), "1");
});
