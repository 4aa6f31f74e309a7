// The runs drawn over one another, and their series as lines.
/** @import { Line, Scatter, Series, Theme } from "../types.d.ts" */
import { runColour } from "../draw/colours.js";

/** @import { Found } from "../data/pieces.js" */

/** @typedef {{ name: string, slot: number, focused: boolean, series: Series, updatesEvery?: number | null }} DrawnRun */

/**
 * The runs drawn whose series have arrived, each with its place.
 *
 * @param {(string | null)[]} slots
 * @param {string | null} focus
 * @param {Record<string, Series>} series
 * @param {Record<string, Found>} [overviews]
 * @returns {DrawnRun[]}
 */
export function drawnRuns(slots, focus, series, overviews = {}) {
  return slots.flatMap((name, slot) => {
    if (name === null || !series[name]) return [];
    const updatesEvery = overviews[name]?.overview?.updates_every;
    return [{ name, slot, focused: name === focus, series: series[name], updatesEvery }];
  });
}

/**
 * The runs drawn whose points have arrived.
 *
 * @param {DrawnRun[]} runs
 * @param {Record<string, Scatter>} scatter
 */
export function sampledRuns(runs, scatter) {
  return runs.flatMap(({ name, slot, focused }) =>
    scatter[name] ? [{ name, slot, focused, scatter: scatter[name] }] : [],
  );
}

/**
 * A series of a run as a line: a band from the lowest to the highest of each column.
 *
 * @param {DrawnRun} run
 * @param {string} name of the series
 * @param {Theme} theme
 * @param {DrawnRun[]} runs all that are drawn
 * @returns {Line}
 */
export function band(run, name, theme, runs) {
  const { series } = run;
  return {
    label: `${prefix(run, runs)}${name}`,
    colour: runColour(run.slot, theme),
    first: series.first,
    last: series.last,
    high: series[`${name}.high`],
    low: series[`${name}.low`],
  };
}

/**
 * Names the run where several are drawn.
 *
 * @param {DrawnRun} run
 * @param {DrawnRun[]} runs all that are drawn
 */
export function prefix({ name }, runs) {
  return runs.length > 1 ? `${name}: ` : "";
}
