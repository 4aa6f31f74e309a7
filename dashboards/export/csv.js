// What is in view as CSV: the series of the runs drawn, or the rows of the heat map.
/** @import { Layers, Range, Scatter, Series, State, Tile } from "../types.d.ts" */

import { statistic } from "../heat/statistics.js";
import { ABSENT, largest, valuesOf } from "../heat/values.js";
import { rowSubjects, rowsOf } from "../state/rows.js";

/**
 * A line for each run and column of steps; without a value a cell is empty.
 *
 * @param {Record<string, Series>} runs by name
 * @param {Range} range
 */
export function seriesCsv(runs, range) {
  const names = [...new Set(Object.values(runs).flatMap(Object.keys))].filter(
    (name) => !["first", "last"].includes(name),
  );
  const lines = [["run", "first_step", "last_step", ...names.map((name) => name.replaceAll(".", "_"))]];
  for (const [run, series] of Object.entries(runs))
    for (const i of inView({ first: series.first, last: series.last }, range))
      lines.push([
        run,
        ...[series.first, series.last, ...names.map((name) => series[name])].map((all) => cell(all?.[i])),
      ]);
  return csv(lines);
}

/**
 * A line for each point of the scatter plot: a step of a run with all quantities; without a value a cell is empty.
 *
 * @param {Record<string, Scatter>} runs by name
 * @param {Range} range
 */
export function pointsCsv(runs, [from, to]) {
  const names = [...new Set(Object.values(runs).flatMap(({ about }) => about.quantities))];
  const lines = [["run", "step", ...names]];
  for (const [run, { about, arrays }] of Object.entries(runs))
    for (const [i, step] of arrays.step.entries()) {
      if (step < from || step > to) continue;
      const value = (/** @type {string} */ name) => {
        const at = about.quantities.indexOf(name);
        return at < 0 ? undefined : arrays.values[i * about.quantities.length + at];
      };
      lines.push([run, cell(step), ...names.map((name) => cell(value(name)))]);
    }
  return csv(lines);
}

/**
 * A line for each column of steps, and in it a cell for each row of the heat map: empty without a value, inf where it
 * was NaN or infinite.
 *
 * @param {object} view
 * @param {Tile} view.tile
 * @param {string} view.stat
 * @param {Layers} view.layers
 * @param {State} view.state filter, group and order of the rows
 * @param {Range} view.range
 */
export function layersCsv({ tile, stat, layers, state, range }) {
  const subjects = rowSubjects(statistic(stat).ranks ?? false, layers);
  const rows = rowsOf(subjects.layers, subjects.telling, state);
  const values = valuesOf(tile, stat, subjects.layers);
  const { first, last } = tile.arrays;
  const lines = inView(tile.arrays, range).map((i) => [
    cell(first[i]),
    cell(last[i]),
    ...rows.map((row) => cell(largest(values, row, i))),
  ]);
  return csv([["first_step", "last_step", ...rows.map(({ name }) => name)], ...lines]);
}

/**
 * The columns that hold a step in view.
 *
 * @param {{ first: ArrayLike<number>, last: ArrayLike<number> }} columns
 * @param {Range} range
 */
function inView({ first, last }, [from, to]) {
  return Array.from(first, (_, i) => i).filter((i) => last[i] >= from && first[i] <= to);
}

/** All digits of a number. @param {number | undefined} value */
function cell(value) {
  if (value === undefined || Number.isNaN(value) || value === ABSENT) return "";
  return value === Infinity ? "inf" : String(value);
}

/** @param {string[][]} lines the first has names */
function csv(lines) {
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

/**
 * A cell. Names may come from strangers: a spreadsheet must not run one as a formula.
 *
 * @param {string} text
 */
function quoted(text) {
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
