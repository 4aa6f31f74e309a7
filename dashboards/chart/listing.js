// The lines of a chart as rows of a table: the steps in view, joined where there are many.
/** @import { Line, Range } from "../types.d.ts" */
import { steps } from "../draw/text.js";
import { told } from "./readout.js";

const MOST = 200; // rows: each tells the lowest and the highest of its steps, so that no spike is lost

/**
 * @param {Line[]} lines
 * @param {Range} range the steps shown
 * @param {boolean} isShare
 * @returns {{ heads: string[], rows: string[][] }}
 */
export function listing(lines, range, isShare) {
  const ordered = lines.flatMap((line, at) =>
    line.under ? [] : lines[at - 1]?.under ? [line, lines[at - 1]] : [line],
  );
  const spans = spansOf(ordered, range);
  const rows = spans.map(([first, last]) => [
    steps(first, last),
    ...ordered.map((line) => cellOf(line, first, last, isShare)),
  ]);
  return { heads: ["steps", ...ordered.map(({ label }) => label)], rows };
}

/**
 * The first and the last step of each row: those of the line with the most columns in view.
 *
 * @param {Line[]} lines
 * @param {Range} range
 * @returns {[first: number, last: number][]}
 */
function spansOf(lines, [from, to]) {
  const inView = lines.map(({ first, last }) => [...first.keys()].filter((i) => last[i] >= from && first[i] <= to));
  const most = inView.reduce((best, own, i) => (own.length > inView[best].length ? i : best), 0);
  const own = inView[most] ?? [];
  const joined = Math.max(1, Math.ceil(own.length / MOST));
  const { first, last } = lines[most];
  return Array.from({ length: Math.ceil(own.length / joined) }, (_, row) => {
    const part = own.slice(row * joined, (row + 1) * joined);
    return [first[part[0]], last[part[part.length - 1]]];
  });
}

/**
 * A line between two steps: its lowest and highest finite value, and how often it was not finite.
 *
 * @param {Line} line
 * @param {number} begin
 * @param {number} end
 * @param {boolean} isShare
 */
function cellOf({ first, last, low, high, bad, infinite }, begin, end, isShare) {
  const found = { low: Infinity, high: -Infinity, bad: 0, infinite: 0 };
  let columns = 0;
  for (let i = 0; i < first.length && first[i] <= end; i++) {
    if (last[i] < begin) continue;
    columns++;
    found.bad += bad?.[i] ?? 0;
    found.infinite += infinite?.[i] ?? 0;
    if (Number.isNaN(high[i])) continue;
    found.high = Math.max(found.high, high[i]);
    found.low = Math.min(found.low, low?.[i] ?? high[i]);
  }
  if (!columns) return "–";
  return told(found.high === -Infinity ? { ...found, high: NaN } : found, isShare);
}
