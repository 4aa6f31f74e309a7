// The chosen row of the heat map as a line.
/** @import { BadSpan, Line, Theme, Tile } from "../types.d.ts" */
/** @import { rowSubjects, Row } from "../state/rows.js" */
import { spansOf } from "../chart/bad.js";
import { ink } from "../draw/colours.js";
import { statistic } from "../heat/statistics.js";
import { lineOf, valuesOf } from "../heat/values.js";

/**
 * Where the chosen row was not finite.
 *
 * @param {Line[]} lines
 * @returns {BadSpan[]}
 */
export function badOf([line]) {
  if (!line) return [];
  return line.bad ? spansOf(line.first, line.last, line.bad) : [];
}

/**
 * The chosen row as a line, and beside the norm of a single layer its median.
 *
 * @param {Row | null} row
 * @param {Tile} tile
 * @param {string} stat
 * @param {ReturnType<typeof rowSubjects>["layers"]} layers
 * @param {string} colour
 * @param {Theme} theme
 * @returns {Line[]}
 */
export function rowLines(row, tile, stat, layers, colour, theme) {
  if (!row) return [];
  const line = lineOf(valuesOf(tile, stat, layers), row, tile.arrays);
  const lines = [{ ...line, label: statistic(stat).against ? "ratio" : stat, colour }];
  const median = row.members.length === 1 && stat === "norm" ? layers[row.members[0]].median : null;
  if (!median) return lines;
  const { first, last } = line;
  const high = Float64Array.from(first, () => median);
  return [...lines, { first, last, high, label: "its median", colour: ink(theme).line, dash: [4, 4], reference: true }];
}
