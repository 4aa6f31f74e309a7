// The scatter plot in words: each point, what is drawn, and what can't be.
/** @import { Range, Scatter } from "../types.d.ts" */
/** @import { Cloud, Sampled } from "./values.js" */
import { allDigits, count, number, steps, whole } from "../draw/text.js";
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
    const { amount, sampled, left, why } = counted(run, axes, range);
    const name = cloud.runs.length > 1 ? `${run.name}: ` : "";
    const sample = sampled ? ", a sample that keeps the least and the largest of each quantity" : "";
    const missing = left ? ` ${count(left, "step")} can't be drawn: ${why.join(", ")}.` : "";
    return `${name}${count(drawn, "point")} of ${amount}${sample}.${missing}`;
  });
}

/** @param {Sampled} run @param {[x: string, y: string]} axes @param {Range} range */
function counted({ scatter }, axes, [from, to]) {
  const { about, arrays } = scatter;
  const spans = [...arrays.first.keys()].filter((i) => arrays.last[i] >= from && arrays.first[i] <= to);
  const size = about.quantities.length;
  /** @param {"nan" | "infinite" | "unknown" | "left_out"} name @param {number} width @param {number} at */
  const sum = (name, width, at) => spans.reduce((total, span) => total + arrays[name][span * width + at], 0);
  const [x, y] = axes.map((name) => about.quantities.indexOf(name));
  const why = axes.flatMap((name, i) => reasons(QUANTITIES[name].label, (kind) => sum(kind, size, [x, y][i])));
  const all = spans.reduce((total, span) => total + arrays.steps[span], 0);
  const where = spans.length ? ` (${steps(arrays.first[spans[0]], arrays.last[spans[spans.length - 1]])})` : "";
  return {
    amount: `${count(all, "step")}${where}`,
    sampled: arrays.step.length < totalOf(scatter),
    left: sum("left_out", size * size, x * size + y),
    why,
  };
}

/** @param {Scatter} scatter */
function totalOf({ arrays: { steps: amounts } }) {
  return amounts.reduce((total, amount) => total + amount, 0);
}

/** @param {string} label @param {(kind: "nan" | "infinite" | "unknown") => number} sum */
function reasons(label, sum) {
  const kinds = /** @type {const} */ ([
    ["nan", "NaN"],
    ["infinite", "infinite"],
    ["unknown", "unknown"],
  ]);
  return kinds.flatMap(([kind, word]) => (sum(kind) ? [`${label} ${word} at ${whole(sum(kind))}`] : []));
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
