// The chosen row of the heat map as a line.
/** @import { BadSpan, Layers, Line, Theme, Tile } from "../types.d.ts" */
/** @import { Sentinels } from "../heat/sentinels.js" */
/** @import { rowSubjects, Row } from "../state/rows.js" */
import { spansOf } from "../chart/bad.js";
import { ink } from "../draw/colours.js";
import { readEvery, sentinelLine } from "../heat/sentinels.js";
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
 * The chosen row as a line, and beside the norm of a single layer its median. The update of a sentinel is drawn at
 * every step: rms_ratio in place of what was read at some steps, and the computed update_ratio beside the sampled one.
 *
 * @param {Row | null} row
 * @param {Tile} tile
 * @param {string} stat
 * @param {ReturnType<typeof rowSubjects>["layers"]} layers
 * @param {string} colour
 * @param {Theme} theme
 * @param {Sentinels | null} sentinels
 * @param {Layers} about
 * @returns {Line[]}
 */
export function rowLines(row, tile, stat, layers, colour, theme, sentinels, about) {
  if (!row) return [];
  const line = lineOf(valuesOf(tile, stat, layers), row, tile.arrays);
  const each = row.members.length === 1 ? sentinelLine(sentinels, stat, row.members[0]) : null;
  const lines = [{ ...line, label: labelOf(stat, about), colour }];
  if (each && stat === "rms_ratio") return [{ ...each, label: `${stat}, each step`, colour }];
  if (each) return [...lines, { ...each, label: "computed, each step", colour: ink(theme).line, under: true }];
  const median = row.members.length === 1 && stat === "norm" ? layers[row.members[0]].median : null;
  if (!median) return lines;
  const { first, last } = line;
  const high = Float64Array.from(first, () => median);
  return [...lines, { first, last, high, label: "its median", colour: ink(theme).line, dash: [4, 4], reference: true }];
}

/** @param {string} stat @param {Layers} about */
function labelOf(stat, { sentinels, updates_every: every }) {
  if (statistic(stat).against) return "ratio";
  if (!sentinels?.length) return stat;
  if (stat === "rms_ratio") return `${stat}, ${readEvery(every)}`;
  return stat === "update_ratio" ? `${stat}, sampled` : stat;
}
