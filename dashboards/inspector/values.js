// The inspected layers in numbers.
/** @import { Layer, Layers, Line, Rows, Theme } from "../types.d.ts" */
/** @import { Sentinels } from "../heat/sentinels.js" */
import { runColour } from "../draw/colours.js";
import { allDigits, steps } from "../draw/text.js";
import { columnOf } from "../heat/readout.js";
import { sentinelLine } from "../heat/sentinels.js";
import { statistic } from "../heat/statistics.js";
import { ABSENT, lineOf, valuesOf } from "../heat/values.js";
import { columnAt } from "../state/columns.js";

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

/** @typedef {ReturnType<typeof lineOf>} SentinelLine */
/** @typedef {Record<string, (SentinelLine | null)[]>} Few by statistic, the line of each inspected layer that is a sentinel */

/**
 * The lines of those inspected layers that are sentinels.
 *
 * @param {string[]} names of the inspected layers
 * @param {Layers} layers
 * @param {Sentinels | null} sentinels
 * @returns {Few}
 */
export function sentinelsAmong(names, { layers }, sentinels) {
  const positions = positionsOf(names, layers);
  const lines = (/** @type {string} */ stat) => positions.map((layer) => sentinelLine(sentinels, stat, layer));
  return { update_ratio: lines("update_ratio"), rms_ratio: lines("rms_ratio") };
}

/**
 * A statistic of each layer as a line.
 *
 * @param {Rows} rows
 * @param {string} stat
 * @param {Layer[]} layers those inspected
 * @param {Theme} theme
 * @param {Few} [few]
 * @returns {Line[]}
 */
export function inspectedLines(rows, stat, layers, theme, few = {}) {
  const tile = rows[stat];
  if (!tile || tile.arrays.values.shape[1] !== layers.length) return [];
  const values = valuesOf(tile, stat, layers);
  const lines = layers.flatMap(({ name }, i) => {
    const sampled = lineOf(values, { name, members: [i] }, tile.arrays);
    const [label, colour] = [layers.length > 1 ? name : stat, runColour(i, theme)];
    const each = few[stat]?.[i];
    const full = each
      ? [{ ...each, label: `${label}, ${stat === "rms_ratio" ? "" : "computed, "}each step`, colour }]
      : [];
    return each && stat === "rms_ratio" ? full : [{ ...sampled, label, colour }, ...full];
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
 * @param {Few} [few]
 * @returns {{ stat: string, when: string, cells: string[] }[]} `when` tells the steps of the values
 */
export function valuesAtStep(rows, layers, step, lastStep, few = {}) {
  const each = Object.entries(few).flatMap(([stat, lines]) => eachStep(stat, lines, step));
  return [...atStep(rows, layers, step, lastStep), ...each];
}

/**
 * A statistic of the sentinels' updates at a step; nothing if no layer is one.
 *
 * @param {string} stat
 * @param {(SentinelLine | null)[]} lines
 * @param {number} step
 */
function eachStep(stat, lines, step) {
  const there = lines.find((line) => line !== null);
  if (!there) return [];
  const column = columnAt(there, step);
  const [first, last] = [there.first[column], there.last[column]];
  const when = column < 0 ? "" : `${first === last ? "" : "largest of "}${steps(first, last)}`;
  const cells = lines.map((line) => {
    if (line === null) return "no sentinel";
    const at = columnAt(line, step);
    return at < 0 || Number.isNaN(line.high[at]) ? "–" : allDigits(line.high[at]);
  });
  return [{ stat: `${stat}, computed, each step`, when, cells }];
}

/** @param {Rows} rows @param {Layer[]} layers @param {number} step @param {number} lastStep */
function atStep(rows, layers, step, lastStep) {
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
