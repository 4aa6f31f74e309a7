// What lies under the pointer on the heat map, in words.
/** @import { Range, Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Values } from "./values.js" */
import { count, steps } from "../draw/text.js";
import { columnAt } from "../state/columns.js";
import { wholeSteps } from "../state/range.js";
import { valueText } from "./legend.js";
import { statistic } from "./statistics.js";
import { largest } from "./values.js";

/**
 * Tells row, steps and value.
 *
 * @param {{ stat: string, tile: Tile, values: Values }} shown
 * @param {Row[]} rows at the pointer
 * @param {number} step
 */
export function told({ stat, tile, values }, rows, step) {
  const { first, last } = tile.arrays;
  const column = columnAt(tile.arrays, step);
  if (column < 0) return "no step was recorded here";
  const [row] = rows;
  const value = valueText(largest(values, row, column), statistic(stat));
  const joined = first[column] === last[column] ? "" : "largest ";
  return `${row.name} · ${steps(first[column], last[column])} · ${joined}${value}`;
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
