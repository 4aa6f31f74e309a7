// How many steps the scatter plot can't draw, and why.
/** @import { Range, Scatter } from "../types.d.ts" */
import { whole } from "../draw/text.js";
import { columnOf, QUANTITIES } from "./values.js";

/**
 * @typedef {object} Counted
 * @property {number} all steps
 * @property {number} first
 * @property {number} last
 * @property {number} left steps at which one of the two quantities is not finite
 * @property {string[]} why
 */

/**
 * Counts the steps in view. Of a sample that is a file's, whose counts are those of whole spans, the steps of all spans
 * with a step in view are counted.
 *
 * @param {Scatter} scatter
 * @param {[x: string, y: string]} axes
 * @param {Range} range
 * @returns {Counted & { sampled: boolean }}
 */
export function counted(scatter, axes, range) {
  const { first, last, steps, step } = scatter.arrays;
  const sampled = step.length < steps.reduce((total, amount) => total + amount, 0);
  const spans = [...first.keys()].filter((i) => last[i] >= range[0] && first[i] <= range[1]);
  const whole = spans.every((i) => first[i] >= range[0] && last[i] <= range[1]);
  return { sampled, ...(sampled || whole ? bySpans(scatter, axes, spans) : byPoints(scatter, axes, range)) };
}

/** @param {Scatter} scatter @param {[x: string, y: string]} axes @param {number[]} spans @returns {Counted} */
function bySpans({ about: { quantities }, arrays }, axes, spans) {
  const size = quantities.length;
  const [x, y] = axes.map((name) => quantities.indexOf(name));
  /** @param {"steps" | "nan" | "infinite" | "unknown" | "left_out"} name @param {number} width @param {number} at */
  const sum = (name, width, at) => spans.reduce((total, span) => total + arrays[name][span * width + at], 0);
  const why = axes.flatMap((name, i) =>
    reasons(name, {
      NaN: sum("nan", size, [x, y][i]),
      infinite: sum("infinite", size, [x, y][i]),
      unknown: sum("unknown", size, [x, y][i]),
    }),
  );
  return {
    all: sum("steps", 1, 0),
    first: arrays.first[spans[0]],
    last: arrays.last[spans[spans.length - 1]],
    left: sum("left_out", size * size, x * size + y),
    why,
  };
}

/** Every step is a point. @param {Scatter} scatter @param {[x: string, y: string]} axes @param {Range} range @returns {Counted} */
function byPoints(scatter, axes, [from, to]) {
  const { step } = scatter.arrays;
  const seen = [...step.keys()].filter((i) => step[i] >= from && step[i] <= to);
  const columns = axes.map((name) => columnOf(scatter, name));
  const why = axes.flatMap((name, axis) => {
    const values = seen.map((i) => columns[axis][i]);
    return reasons(name, {
      infinite: values.filter((value) => Math.abs(value) === Infinity).length,
      "NaN or unknown": values.filter(Number.isNaN).length,
    });
  });
  const left = seen.filter((i) => !columns.every((column) => Number.isFinite(column[i]))).length;
  return { all: seen.length, first: step[seen[0]], last: step[seen[seen.length - 1]], left, why };
}

/** @param {string} name @param {Record<string, number>} amounts */
function reasons(name, amounts) {
  return Object.entries(amounts).flatMap(([word, amount]) =>
    amount ? [`${QUANTITIES[name].label} ${word} at ${whole(amount)}`] : [],
  );
}
