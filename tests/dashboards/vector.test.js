import assert from "node:assert/strict";
import { test } from "node:test";
import { stretchesOf } from "../../dashboards/chart/vector.js";
import { pointsCsv } from "../../dashboards/export/csv.js";
import { VectorPen } from "../../dashboards/export/pen.js";
import { svgOf } from "../../dashboards/export/svg.js";
import { attributes, escaped } from "../../dashboards/export/xml.js";
import { random, scatter } from "./support.js";

const measure = (/** @type {string} */ text) => ({ width: 6 * text.length, drop: 3 });
const pen = () => new VectorPen(measure, "clip");

test("names of strangers stay text, and what no XML may hold is replaced", () => {
  assert.equal(escaped(`<a href="x">&'</a>`), "&lt;a href=&quot;x&quot;&gt;&amp;'&lt;/a&gt;");
  assert.equal(escaped("a\u0000b\u001bc\ud800d\uffff"), "a\ufffdb\ufffdc\ufffdd\ufffd");
  assert.equal(escaped("tab\tline\n 💡 ü"), "tab\tline\n 💡 ü");
  assert.equal(attributes({ a: '"', b: 0, c: undefined }), ' a="&quot;" b="0"');
});

test("any text makes a file that is balanced", () => {
  const next = random(4);
  for (let i = 0; i < 200; i++) {
    const text = String.fromCharCode(...Array.from({ length: 30 }, () => Math.floor(0x10000 * next())));
    const items = { width: 10, height: 10, background: "white", colour: text, texts: [], fields: [], canvases: [] };
    const svg = svgOf({ ...items, texts: [{ text, font: text, left: 0, top: 0, room: 50 }] }, [], measure);
    const inner = svg.replaceAll(/&(amp|lt|gt|quot);/g, "").slice(svg.indexOf("<svg"));
    assert.equal(inner.match(/</g)?.length, inner.match(/>/g)?.length);
    assert(!inner.includes("&"));
  }
});

test("places follow what the canvas was scaled and moved by, and come back", () => {
  const one = pen();
  one.save();
  one.translate(10, 20);
  one.scale(0.5, 0.5);
  one.fillRect(2, 4, 6, 8);
  one.lineWidth = 4;
  one.setLineDash([2, 6]);
  one.strokeRect(0, 0, 2, 2);
  one.restore();
  one.fillRect(0, 0, 1, 1);
  const [moved, stroked, plain] = one.content.split("\n");
  assert.match(moved, /d="M11 22H14V26H11Z"/);
  assert.match(stroked, /stroke-width="2" stroke-dasharray="1 3"/);
  assert.match(plain, /d="M0 0H1V1H0Z"/);
});

test("what is clipped stays clipped until it is restored", () => {
  const one = pen();
  one.save();
  one.beginPath();
  one.rect(0, 0, 5, 5);
  one.clip();
  one.fillRect(0, 0, 9, 9);
  one.restore();
  one.fillRect(0, 0, 9, 9);
  const [clip, inside, outside] = one.content.split("\n");
  assert.equal(clip, '<clipPath id="clip-1"><path d="M0 0H5V5H0Z"/></clipPath>');
  assert.match(inside, /clip-path="url\(#clip-1\)"/);
  assert.doesNotMatch(outside, /clip-path/);
});

test("a text stands on its base line, at its anchor, squeezed only if it is too long", () => {
  const one = pen();
  one.font = "bold 12px system-ui";
  one.textAlign = "right";
  one.fillText("a<b", 40, 10);
  one.fillText("long long", 0, 0, 20);
  const [short, long] = one.content.split("\n");
  assert.match(short, /x="40" y="13".*style="font:bold 12px system-ui" text-anchor="end">a&lt;b<\/text>/);
  assert.doesNotMatch(short, /textLength/);
  assert.match(long, /textLength="20" lengthAdjust="spacingAndGlyphs"/);
});

test("a circle is a path of two arcs, and a path that begins with lineTo begins there", () => {
  const one = pen();
  one.beginPath();
  one.arc(10, 10, 4);
  one.fill();
  one.beginPath();
  one.lineTo(1, 2);
  one.lineTo(3, 4);
  one.globalAlpha = 0.5;
  one.stroke();
  const [circle, line] = one.content.split("\n");
  assert.match(circle, /d="M6 10A4 4 0 1 1 14 10A4 4 0 1 1 6 10Z"/);
  assert.match(line, /d="M1 2L3 4".*opacity="0.5"/);
});

test("a line is broken at gaps, not where another line has steps", () => {
  assert.deepEqual(stretchesOf([1, undefined, 2, null, 3, null]), [[0, 2], [4]]);
  assert.deepEqual(stretchesOf([null, null]), []);
});

test("points have a line for each step in view, with all quantities and all digits", () => {
  const text = pointsCsv({ "=a": scatter({ loss: [0.1, NaN, 3], total_norm: [1, 2, Infinity] }) }, [0.5, 5]);
  assert.equal(text, "run,step,loss,total_norm\r\n'=a,1,,2\r\n'=a,2,3,inf\r\n");
});
