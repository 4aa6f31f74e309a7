// The scatter plot in words: each point, what is drawn, and what can't be.
/** @import { Range } from "../types.d.ts" */
/** @import { Cloud } from "./values.js" */
import { allDigits, count, number, steps, whole } from "../draw/text.js";
import { counted } from "./counts.js";
import { QUANTITIES } from "./values.js";

const MOST_ROWS = 50; // of the table

/**
 * @param {Cloud} cloud
 * @param {number} point
 * @param {[x: string, y: string]} axes
 */
export function pointText(cloud, point, [x, y]) {
  const { name } = cloud.runs[cloud.run[point]];
  const run = cloud.runs.length > 1 ? `${name}: ` : "";
  const values = `${QUANTITIES[x].label} ${number(cloud.x[point], 4)}, ${QUANTITIES[y].label} ${number(cloud.y[point], 4)}`;
  return `${run}step ${whole(cloud.step[point])}, ${values}`;
}

/**
 * How many steps are drawn of each run, and how many can't be, and why.
 *
 * @param {Cloud} cloud
 * @param {[x: string, y: string]} axes
 * @param {Range} range
 * @returns {string[]} a sentence for each run
 */
export function coverage(cloud, axes, range) {
  return cloud.runs.map((run, i) => {
    const drawn = cloud.run.reduce((sum, one) => sum + (one === i ? 1 : 0), 0);
    const { all, first, last, sampled, left, why } = counted(run.scatter, axes, range);
    const amount = `${count(all, "step")}${all ? ` (${steps(first, last)})` : ""}`;
    const name = cloud.runs.length > 1 ? `${run.name}: ` : "";
    const sample = sampled ? ", a sample that keeps the least and the largest of each quantity" : "";
    const missing = left ? ` ${count(left, "step")} can't be drawn: ${why.join(", ")}.` : "";
    return `${name}${count(drawn, "point")} of ${amount}${sample}.${missing}`;
  });
}

/**
 * What is selected.
 *
 * @param {Cloud} cloud
 * @param {number[]} points
 * @param {number[]} atSteps of these points, ascending
 */
export function selectionText(cloud, points, atSteps) {
  if (!points.length) return "no point is selected";
  const where = steps(atSteps[0], atSteps[atSteps.length - 1]);
  return `${count(points.length, "point")} of ${whole(cloud.x.length)} selected, ${atSteps.length > 1 ? "between " : ""}${where}`;
}

/**
 * Points as rows of cells, the first row with heads: those selected, or else all; the first ones by step.
 *
 * @param {Cloud} cloud
 * @param {number[]} selected
 * @param {[x: string, y: string]} axes
 * @returns {{ caption: string, rows: string[][] }}
 */
export function tableOf(cloud, selected, axes) {
  const points = selected.length ? selected : [...cloud.x.keys()];
  const shown = points.slice(0, MOST_ROWS);
  const kind = selected.length ? "selected points" : "points";
  const part = shown.length < points.length ? `the first ${shown.length} of ${whole(points.length)} ${kind}` : kind;
  const cells = shown.map((i) => [
    cloud.runs[cloud.run[i]].name,
    whole(cloud.step[i]),
    allDigits(cloud.x[i]),
    allDigits(cloud.y[i]),
  ]);
  return { caption: part, rows: [["run", "step", ...axes.map((name) => QUANTITIES[name].label)], ...cells] };
}
