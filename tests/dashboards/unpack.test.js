import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";
import { unpack, unpackEmbedded, widened } from "../../dashboards/data/unpack.js";

// Written by gradwatch.views.web.pack: pack({"a": "é"}, {"x": [1.5, nan], "y": float32 [[1, 2, 3]]}).
const HEADER = '{"about": {"a": "é"}, "arrays": [["x", "float64", [2], 0], ["y", "float32", [1, 3], 16]]}';

function packed() {
  const text = new TextEncoder().encode(HEADER);
  const length = text.length + ((8 - ((4 + text.length) % 8)) % 8);
  const bytes = new Uint8Array(4 + length + 32).fill(32);
  bytes.set(text, 4);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length, true);
  for (const [i, value] of [1.5, NaN].entries()) view.setFloat64(4 + length + 8 * i, value, true);
  for (const [i, value] of [1, 2, 3].entries()) view.setFloat32(4 + length + 16 + 4 * i, value, true);
  return bytes;
}

test("a header and its arrays are read, NaN among them", () => {
  const { about, arrays } = unpack(packed().buffer);
  assert.deepEqual(about, { a: "é" });
  assert.deepEqual([...arrays.x], [1.5, NaN]);
  assert.deepEqual([...arrays.y], [1, 2, 3]);
  assert.deepEqual([arrays.x.shape, arrays.y.shape], [[2], [1, 3]]);
});

test("what a page carries is inflated first", async () => {
  const { arrays } = await unpackEmbedded(deflateSync(packed()).toString("base64"));
  assert.deepEqual([...arrays.y], [1, 2, 3]);
});

test("halved values are laid out by column again, and keep what stands for no number", () => {
  const table = [
    [1, -1],
    [Infinity, 2],
    [0.5, 1.5],
  ]; // (columns, layers), all exact in bfloat16
  const codes = [0, 1].flatMap((layer) =>
    table.map((row) => new Uint32Array(Float32Array.of(row[layer]).buffer)[0] >>> 16),
  );
  const bytes = [...codes.map((code) => code >> 8), ...codes.map((code) => code & 255)];
  /** @type {[number, number]} */
  const shape = [2, 3];
  const values = widened(Object.assign(new Uint16Array(Uint8Array.from(bytes).buffer), { shape }));
  assert.deepEqual(values.shape, [3, 2]);
  assert.deepEqual([...values], table.flat());
});
