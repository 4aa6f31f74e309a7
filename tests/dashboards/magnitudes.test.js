import assert from "node:assert/strict";
import { test } from "node:test";
import { Loader } from "../../dashboards/data/loader.js";
import { layerOf, layerShown } from "../../dashboards/magnitudes/layer.js";
import { binTold, noteText, rowsAt, sampleText } from "../../dashboards/magnitudes/text.js";
import { bandsOf, binText, LIMITS, placeOf, sampleOf } from "../../dashboards/magnitudes/values.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { BINS, LAYERS, magnitudes, memory } from "./support.js";

test("bins stand in order of their magnitude, and every limit between the bins that it parts", () => {
  const { bands, height } = bandsOf(BINS);
  assert.equal(bands.length, BINS.length);
  assert.deepEqual(
    [bands[0], bands[1], bands[2], bands.at(-2), bands.at(-1)].map((band) => band?.name),
    ["nan", "inf", "2^16", "below", "zero"],
  );
  for (const [i, band] of bands.entries()) if (i) assert(band.top >= bands[i - 1].top + bands[i - 1].tall);
  assert.equal(height, (bands.at(-1)?.top ?? 0) + 12);
  const top = (/** @type {string} */ name) => bands.find((band) => band.name === name)?.top ?? NaN;
  assert.equal(placeOf(BINS, bands, -24), top("2^-26"));
  assert.equal(placeOf(BINS, bands, -14), top("2^-16"));
  assert.equal(placeOf(BINS, bands, -126), top("below"));
  assert.equal(placeOf(BINS, bands, 128), top("2^16"));
  assert(Math.abs(placeOf(BINS, bands, Math.log2(65504)) - top("2^14")) < 0.01);
  const places = LIMITS.map(({ log2 }) => placeOf(BINS, bands, log2));
  assert(places.every((y) => y >= 0 && y <= height));
  assert.equal(placeOf(BINS, bands, -1000), top("zero") - 4);
});

test("a bin is told by its ends", () => {
  const text = (/** @type {string} */ name) => binText(BINS, BINS.indexOf(name));
  assert.equal(text("below"), "below 2^-126");
  assert.equal(text("2^-126"), "2^-126 to 2^-42");
  assert.equal(text("2^-6"), "2^-6 to 2^-4");
  assert.equal(text("2^16"), "from 2^16 on");
  assert.equal(text("zero"), "zero");
});

test("what float16 would lose is told, and the loss scale moves its limits", () => {
  const logs = [-30, -30, -20, -20, -20, -3, -3, -3, -3, -Infinity];
  const told = sampleText(magnitudes([logs]), 0);
  assert.equal(told, "step 0: 20% below fp16's smallest number, 30% subnormal in fp16, 10% zero; 10 entries counted");
  assert.match(
    sampleText(magnitudes([logs], { scales: [2 ** 10] }), 0),
    /0% below fp16's smallest number at loss scale 1024, 20% subnormal in fp16/,
  );
  assert.match(sampleText(magnitudes([[NaN, Infinity, Infinity, 1]]), 0), /2 infinite, 1 NaN; 4 entries/);
  assert.equal(sampleText(magnitudes([null]), 0), "step 0: no gradient");
  assert.equal(sampleText(magnitudes([[]]), 0), "step 0: no entries");
});

test("a sample holds until the next one, and the table has its bins that hold an entry", () => {
  const found = magnitudes([[-3], [-3, 5, NaN, -Infinity]]);
  assert.deepEqual(
    [0, 9, 10, 15, 16].map((step) => sampleOf(found, step, 15)),
    [0, 0, 1, 1, -1],
  );
  assert.deepEqual(rowsAt(found, 1), [
    ["nan", "1", "25%"],
    ["2^4 to 2^6", "1", "25%"],
    ["2^-4 to 2^-2", "1", "25%"],
    ["zero", "1", "25%"],
  ]);
});

test("a bin is told by its share, and the note says what was counted", () => {
  const found = magnitudes([[-3, -3, 5, 6], null]);
  const band = bandsOf(BINS).bands.find(({ name }) => name === "2^-4");
  assert(band);
  assert.equal(binTold(found, 0, band), "step 0 · 2^-4 to 2^-2: 2 of 4 counted entries (50%)");
  assert.equal(binTold(found, 1, band), "step 10 · 2^-4 to 2^-2: no gradient");
  assert.match(noteText(found, 4), /at 2 sampled steps; all 4 entries\./);
  assert.match(noteText(found, 1), /at 2 sampled steps; its only entry\./);
  assert.match(noteText(found, 9), /4 of 9 entries, evenly spaced among those that the gradient stores/);
  const some = { ...found, about: { ...found.about, counted: 500 } };
  assert.match(noteText(some, 4), /at 2 of the 500 sampled steps here/);
  assert.match(noteText(layerOf(found, 7), 4), /Nothing was counted/);
});

test("of a group the layer that tells most is shown, and of a file the layers that it holds", () => {
  const named = (/** @type {string | null} */ name) => layerShown(name, LAYERS);
  assert.deepEqual([null, "head.weight", "encoder.0 (2)", "nowhere (3)", "nowhere"].map(named), [
    null,
    2,
    0,
    null,
    null,
  ]);
  const both = magnitudes([[1], [2]]);
  /** @type {[number, number, number]} */
  const shape = [1, 2, BINS.length];
  const held = {
    about: { ...both.about, layers: [5, 2] },
    arrays: { ...both.arrays, counts: Object.assign(both.arrays.counts.slice(), { shape }) },
  };
  held.arrays.step = Float64Array.of(7);
  assert.equal(rowsAt(layerOf(held, 2), 0)[0][0], "2^2 to 2^4");
  assert.equal(rowsAt(layerOf(held, 5), 0)[0][0], "2^0 to 2^2");
  assert.equal(layerOf(held, 3).arrays.step.length, 0);
});

test("entries are asked for where they were counted and a layer is chosen", async () => {
  const counted = { ...LAYERS, magnitudes: true };
  for (const [layers, layer, expected] of /** @type {const} */ ([
    [LAYERS, "head.weight", []],
    [counted, null, []],
    [counted, "head.weight", ["magnitudes a 2 -0.5 99.5 400"]],
  ])) {
    const { source, asked } = memory({ a: {} }, { layers: async () => layers });
    await new Loader(source, () => {}).load({ ...INITIAL, slots: ["a"], focus: "a", layer }, 100);
    assert.deepEqual(
      asked.filter((question) => question.startsWith("magnitudes")),
      expected,
    );
  }
});
