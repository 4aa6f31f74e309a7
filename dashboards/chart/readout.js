// The values of a chart's lines at one step, in words.
/** @import { Line } from "../types.d.ts" */
import { ends } from "../draw/scales.js";
import { count, number, share, span, steps, whole } from "../draw/text.js";
import { columnAt } from "../state/columns.js";

/**
 * What each line is at a step.
 *
 * @param {Line[]} lines
 * @param {number} step
 * @param {boolean} isShare
 * @returns {{ colour: string, text: string }[]}
 */
export function valuesAt(lines, step, isShare) {
  return lines.map((line) => ({ colour: line.colour, text: `${line.label} ${valueAt(line, step, isShare)}` }));
}

/** @param {Line} line @param {number} step @param {boolean} isShare */
function valueAt(line, step, isShare) {
  const i = columnAt(line, step);
  if (i < 0) return outside(line, step);
  const high = line.high[i];
  return told(
    { low: line.low?.[i] ?? high, high, bad: line.bad?.[i] ?? 0, infinite: line.infinite?.[i] ?? 0 },
    isShare,
  );
}

/**
 * A value, or a span of values, and at how many steps it was not finite.
 *
 * @param {{ low: number, high: number, bad: number, infinite: number }} found `high` is NaN if there is none
 * @param {boolean} isShare
 */
export function told({ low, high, bad, infinite }, isShare) {
  if (Number.isNaN(high)) return bad ? "not finite" : "–";
  const infinitely = infinite ? ` (infinite at ${whole(infinite)})` : "";
  const note = bad ? `, not finite at ${count(bad, "step")}${infinitely}` : "";
  return `${(isShare ? shareSpan : span)(low, high)}${note}`;
}

/** @param {number} low @param {number} high */
function shareSpan(low, high) {
  return low === high ? share(high) : `${share(low)} to ${share(high)}`;
}

/** @param {Line} line @param {number} step */
function outside({ first, last }, step) {
  return step < first[0] ? `begins at step ${whole(first[0])}` : `ended at step ${whole(last[last.length - 1])}`;
}

/**
 * The steps that are told about: those of the first line that has a column there.
 *
 * @param {Line[]} lines
 * @param {number} step
 */
export function stepsAt(lines, step) {
  for (const line of lines) {
    const i = columnAt(line, step);
    if (i < 0) continue;
    const [first, last] = [line.first[i], line.last[i]];
    const largest = line.at && first !== last ? `, highest at ${whole(line.at[i])}` : "";
    return `at ${steps(first, last)}${largest}`;
  }
  return `at step ${whole(step)}`;
}

/**
 * A chart in words, for those who can't see it.
 *
 * @param {Line} line
 */
export function describe(line) {
  const [low] = ends(line.low ?? line.high);
  const [, high] = ends(line.high);
  return Number.isFinite(high) ? `${line.label} from ${number(low)} to ${number(high)}` : `${line.label} not known`;
}
