// Which of many runs are listed.
/** @import { ListedRun } from "../types.d.ts" */
import { passes } from "./rows.js";

/** @type {Record<string, { label: string, holds: (run: ListedRun) => boolean }>} */
export const KINDS = {
  all: { label: "all", holds: () => true },
  faulty: { label: "with faults", holds: (run) => run.verdict === "warning" || run.verdict === "critical" },
  critical: { label: "critical", holds: (run) => run.verdict === "critical" },
  healthy: { label: "healthy", holds: (run) => run.verdict === "healthy" },
  recording: { label: "recording", holds: (run) => run.running === true },
};

/**
 * The runs to list, in their order: those drawn in any case, and of the others the first `most` that are of a kind and
 * whose names match a regular expression.
 *
 * @param {ListedRun[]} runs
 * @param {string} find a regular expression; half of one is searched for as text
 * @param {string} kind a key of `KINDS`
 * @param {(string | null)[]} drawn names of runs
 * @param {number} most
 * @returns {{ listed: ListedRun[], matching: number, left: number }} how many match, and how many of them are left out
 */
export function foundRuns(runs, find, kind, drawn, most) {
  const { holds } = KINDS[kind] ?? KINDS.all;
  const matches = (/** @type {string} */ name) => passes(find, name) || name.includes(find);
  let matching = 0;
  const listed = runs.filter((run) => {
    const found = holds(run) && matches(run.name);
    if (found) matching++;
    return (found && matching <= most) || drawn.includes(run.name);
  });
  return { listed, matching, left: Math.max(0, matching - most) };
}
