import assert from "node:assert/strict";
import { test } from "node:test";
import { lineOfRow, linesFor, pixelColumns, rowsOfLine } from "../../dashboards/heat/columns.js";
import { columnAt, columnBefore, sampleAt } from "../../dashboards/state/columns.js";
import { random } from "./support.js";

/** Columns of random widths with random gaps between them. @param {() => number} next */
function randomColumns(next) {
  /** @type {[number[], number[]]} */
  const [first, last] = [[], []];
  let step = Math.floor(50 * next());
  for (let i = Math.floor(1 + 20 * next()); i > 0; i--) {
    first.push(step);
    step += Math.floor(4 * next());
    last.push(step);
    step += 1 + (next() < 0.3 ? Math.floor(10 * next()) : 0);
  }
  return { first, last };
}

/** The slow reference: the column with the least distance; the earlier of two. @param {{ first: number[], last: number[] }} columns @param {number} step */
function nearestSlowly({ first, last }, step) {
  if (step < first[0] - 0.5 || step > last[last.length - 1] + 0.5) return -1;
  const distance = first.map((begin, i) => Math.max(0, begin - step, step - last[i]));
  return distance.indexOf(Math.min(...distance));
}

test("the column at a step is the nearest one, and there is none before the first or after the last", () => {
  const next = random(5);
  for (let i = 0; i < 500; i++) {
    const columns = randomColumns(next);
    for (let step = columns.first[0] - 3; step < columns.last[columns.last.length - 1] + 3; step += 0.25)
      assert.equal(columnAt(columns, step), nearestSlowly(columns, step), JSON.stringify([columns, step]));
  }
});

test("no columns, no column", () => {
  assert.equal(columnAt({ first: [], last: [] }, 3), -1);
  assert.equal(columnBefore({ first: [5], last: [9] }, 0), 0);
});

test("a pixel shows the columns whose steps it covers", () => {
  const next = random(6);
  for (let i = 0; i < 200; i++) {
    const columns = randomColumns(next);
    const [from, to] = [columns.first[0] - 10 * next(), columns.last[columns.last.length - 1] + 10 * next()];
    const width = 1 + Math.floor(100 * next());
    const { begins, ends } = pixelColumns(columns, [from, to], width);
    for (let x = 0; x < width; x++) {
      const [left, right] = [from + ((to - from) * x) / width, from + ((to - from) * (x + 1)) / width];
      const covered = columns.first.flatMap((first, c) =>
        first - 0.5 < right && columns.last[c] + 0.5 > left ? c : [],
      );
      const shown = Array.from({ length: Math.max(0, ends[x] - begins[x]) }, (_, k) => begins[x] + k);
      assert.deepEqual(shown, covered);
    }
  }
});

test("a sampled value holds until the next one, and the last one until the run ends", () => {
  const samples = { first: [0, 10], last: [0, 10] };
  const { begins, ends } = pixelColumns(samples, [-0.5, 20.5], 21, 15.5);
  const shown = [...begins].map((begin, x) => (ends[x] > begin ? begin : -1));
  assert.deepEqual(shown, [...Array(10).fill(0), ...Array(6).fill(1), ...Array(5).fill(-1)]);
  const told = [...Array(21).keys()].map((step) => sampleAt(samples, step, 15));
  assert.deepEqual(told, shown, "the pointer tells what is painted");
  assert.equal(sampleAt({ first: [], last: [] }, 0, 9), -1);
});

test("every row is in exactly one line of pixels, and that line is found again", () => {
  for (const [rows, room] of [
    [1, 560],
    [5, 5],
    [1000, 540],
    [1001, 540],
    [561, 560],
    [10_000, 180],
  ]) {
    const lines = linesFor(rows, room);
    assert.ok(lines <= room);
    /** @type {number[]} */
    const seen = [];
    const together = new Set();
    for (let line = 0; line < lines; line++) {
      const [begin, end] = rowsOfLine(line, rows, lines);
      if (line + 1 < lines) together.add(end - begin);
      assert.ok(begin < end);
      for (let row = begin; row < end; row++) {
        seen.push(row);
        assert.equal(lineOfRow(row, rows, lines), line);
      }
    }
    assert.deepEqual(seen, [...Array(rows).keys()]);
    assert.ok(together.size <= 1, "each line but the last has equally many");
  }
  assert.equal(linesFor(0, 100), 1);
});
