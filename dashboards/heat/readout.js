// What lies under the pointer on the heat map, in words.
/** @import { Range, Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Values } from "./values.js" */
import { count, steps } from "../draw/text.js";
import { columnAt, sampleAt } from "../state/columns.js";
import { wholeSteps } from "../state/range.js";
import { valueText } from "./legend.js";
import { statistic } from "./statistics.js";
import { largest } from "./values.js";

/** @typedef {{ stat: string, tile: Tile, values: Values, lastStep: number }} Shown */

/**
 * The column at a step, or -1.
 *
 * @param {Shown} shown
 * @param {number} step
 */
export function columnOf({ stat, tile, lastStep }, step) {
  return statistic(stat).sampled ? sampleAt(tile.arrays, step, lastStep) : columnAt(tile.arrays, step);
}

/**
 * The row whose value colours a line of pixels: the one with the largest value at a step.
 *
 * @param {Shown} shown
 * @param {Row[]} rows that share the line
 * @param {number} step
 */
export function rowInView(shown, rows, step) {
  const column = columnOf(shown, step);
  if (column < 0) return rows[0];
  const values = rows.map((row) => largest(shown.values, row, column));
  return rows[values.indexOf(Math.max(...values))];
}

/**
 * The row that a click on a line chooses: the one in view, or after that one the next of the line.
 *
 * @param {Shown} shown
 * @param {Row[]} rows that share the line
 * @param {number} step
 * @param {Row | null} chosen
 */
export function rowClicked(shown, rows, step, chosen) {
  const at = chosen ? rows.indexOf(chosen) : -1;
  return at < 0 ? rowInView(shown, rows, step) : rows[(at + 1) % rows.length];
}

/**
 * Tells row, steps and value.
 *
 * @param {Shown} shown
 * @param {Row[]} rows that share the line under the pointer
 * @param {number} step
 */
export function told(shown, rows, step) {
  const { first, last } = shown.tile.arrays;
  const column = columnOf(shown, step);
  if (column < 0) return "no step was recorded here";
  const row = rowInView(shown, rows, step);
  const value = valueText(largest(shown.values, row, column), statistic(shown.stat));
  const joined = first[column] === last[column] ? "" : "largest ";
  const others = rows.length > 1 ? ` · the largest of ${rows.length} rows in this line` : "";
  return `${row.name} · ${steps(first[column], last[column])} · ${joined}${value}${others}`;
}

/**
 * The picture in words, for those who can't see it.
 *
 * @param {{ stat: string, rows: Row[], range: Range }} shown
 */
export function describe({ stat, rows, range }) {
  const first = rows.length ? `; the first is ${rows[0].name}` : "";
  return `${statistic(stat).label} of ${count(rows.length, "row")} over ${steps(...wholeSteps(range))}${first}`;
}
