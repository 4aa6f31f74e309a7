import assert from "node:assert/strict";
import { test } from "node:test";
import { faded, gradient, ink, palette, pixel, runColour } from "../../dashboards/draw/colours.js";

/** @type {import("../../dashboards/types.d.ts").Theme[]} */
const THEMES = ["light", "dark"];

/** The relative luminance of a colour (WCAG 2.2). @param {string} hex */
function luminance(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** @param {string} one @param {string} other */
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** @param {number} colour @returns {string} the colour of a pixel as a hex string */
function hexOf(colour) {
  const bytes = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  return `#${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

test("text has the contrast that WCAG asks for (AA), in both themes", () => {
  for (const theme of THEMES) {
    const { back, ...colours } = ink(theme);
    for (const name of /** @type {const} */ (["text", "faint", "critical", "warning", "info"]))
      assert.ok(contrast(colours[name], back) >= 4.5, `${name} on ${theme}: ${contrast(colours[name], back)}`);
  }
});

test("six runs have six colours that stand out from the background", () => {
  for (const theme of THEMES) {
    const colours = [0, 1, 2, 3, 4, 5].map((i) => runColour(i, theme));
    assert.equal(new Set(colours).size, 6);
    for (const colour of colours) assert.ok(contrast(colour, ink(theme).back) >= 3, colour);
  }
});

test("a palette has 256 opaque colours from the first stop to the last, and lightness rises", () => {
  const colours = [...palette(undefined, "light")];
  assert.equal(colours.length, 256);
  assert.ok(colours.every((colour) => colour >>> 24 === 255));
  assert.equal(colours[0], pixel("#440154"));
  assert.equal(colours[255], pixel("#fde725"));
  const light = colours.map((colour) => luminance(hexOf(colour)));
  assert.deepEqual(
    light,
    [...light].sort((a, b) => a - b),
  );
});

test("a palette around a level is neutral in its middle", () => {
  for (const theme of THEMES) {
    const middle = hexOf(palette("around", theme)[128]);
    const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(middle.slice(at, at + 2), 16));
    assert.ok(Math.max(red, green, blue) - Math.min(red, green, blue) < 8, middle);
  }
});

test("a pixel has red in its lowest byte, as ImageData wants it on a little-endian machine", () => {
  assert.deepEqual([...new Uint8Array(Uint32Array.of(pixel("#010203")).buffer)], [1, 2, 3, 255]);
});

test("colours for CSS", () => {
  assert.equal(faded("#0a0b0c", 0.5), "rgba(10,11,12,0.5)");
  assert.match(gradient("around", "dark"), /^linear-gradient\(to right, #9ecae1, .*#fee6ce\)$/);
});
