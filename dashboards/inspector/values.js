// The inspected layers in numbers.
/** @import { Layer, Line, Rows, Theme } from "../types.d.ts" */
import { runColour } from "../draw/colours.js";
import { allDigits, steps } from "../draw/text.js";
import { columnOf } from "../heat/readout.js";
import { statistic } from "../heat/statistics.js";
import { ABSENT, lineOf, valuesOf } from "../heat/values.js";

export const MOST_LAYERS = 6; // inspected at once: as many colours can be told apart

/**
 * Where layers with these names are; names that the run does not have are left out.
 *
 * @param {string[]} names
 * @param {{ name: string }[]} layers
 */
export function positionsOf(names, layers) {
  const wanted = new Map(names.map((name, i) => [name, i]));
  /** @type {number[][]} */
  const found = [];
  for (const [i, { name }] of layers.entries()) {
    const at = wanted.get(name);
    if (at !== undefined) found.push([at, i]);
  }
  return found
    .sort(([a], [b]) => a - b)
    .map(([, position]) => position)
    .slice(0, MOST_LAYERS);
}

/**
 * The names with those of a row's layers added, as many as there is room for.
 *
 * @param {string[]} names
 * @param {string[]} more
 */
export function withNames(names, more) {
  return [...new Set([...names, ...more])].slice(0, MOST_LAYERS);
}

/**
 * A statistic of each layer as a line.
 *
 * @param {Rows} rows
 * @param {string} stat
 * @param {Layer[]} layers those inspected
 * @param {Theme} theme
 * @returns {Line[]}
 */
export function inspectedLines(rows, stat, layers, theme) {
  const tile = rows[stat];
  if (!tile || tile.arrays.values.shape[1] !== layers.length) return [];
  const values = valuesOf(tile, stat, layers);
  const lines = layers.map(({ name }, i) => {
    const line = lineOf(values, { name, members: [i] }, tile.arrays);
    return { ...line, label: layers.length > 1 ? name : stat, colour: runColour(i, theme) };
  });
  const least = stat === "nonfinite" ? 1 : -Infinity; // zero everywhere needs no chart
  const told = lines.some(
    ({ high, bad }) => high.some((value) => Number.isFinite(value) && value >= least) || bad.some((one) => one > 0),
  );
  return told ? lines : [];
}

/**
 * All statistics of each layer at a step, with all digits.
 *
 * @param {Rows} rows
 * @param {Layer[]} layers those inspected
 * @param {number} step
 * @param {number} lastStep of the run
 * @returns {{ stat: string, when: string, cells: string[] }[]} `when` tells the steps of the values
 */
export function valuesAtStep(rows, layers, step, lastStep) {
  return Object.entries(rows).flatMap(([stat, tile]) => {
    if (tile.arrays.values.shape[1] !== layers.length) return [];
    const values = valuesOf(tile, stat, layers);
    const column = columnOf({ stat, tile, values, lastStep }, step);
    if (column < 0) return [{ stat, when: "", cells: layers.map(() => "–") }];
    const [first, last] = [tile.arrays.first[column], tile.arrays.last[column]];
    const when = `${first === last ? "" : "largest of "}${steps(first, last)}`;
    return [{ stat, when, cells: layers.map((_, i) => cellText(values(column, i), stat)) }];
  });
}

/** @param {number} value @param {string} stat */
function cellText(value, stat) {
  if (value === Infinity) return "not finite";
  return value === ABSENT ? statistic(stat).absent : allDigits(value);
}

/**
 * The step of the column after or before the one at a step; the step itself at the ends.
 *
 * @param {Rows} rows
 * @param {number} step
 * @param {number} by 1 or -1
 */
export function neighbourStep({ norm }, step, by) {
  const { first, last } = norm.arrays;
  const at = columnOf({ stat: "norm", tile: norm, values: () => 0, lastStep: Infinity }, step);
  const next = at < 0 ? -1 : at + by;
  return next < 0 || next >= first.length ? step : Math.round((first[next] + last[next]) / 2);
}

/**
 * The values as lines of cells with tabs between, as a spreadsheet takes them.
 *
 * @param {ReturnType<typeof valuesAtStep>} values
 * @param {Layer[]} layers
 */
export function copyText(values, layers) {
  const lines = [
    ["statistic", "steps", ...layers.map(({ name }) => name)],
    ...values.map(({ stat, when, cells }) => [stat, when, ...cells]),
  ];
  return lines.map((line) => line.map((cell) => cell.replaceAll(/[\t\r\n]/g, " ")).join("\t")).join("\n");
}
