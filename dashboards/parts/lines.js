// Which lines each chart has.
/** @import { Line, Series, Theme } from "../types.d.ts" */
/** @import { DrawnRun } from "./drawn.js" */
import { ink, runColour } from "../draw/colours.js";
import { ends } from "../draw/scales.js";
import { readEvery, readings } from "../heat/sentinels.js";
import { band, prefix } from "./drawn.js";

/** @typedef {{ runs: DrawnRun[], theme: Theme, trial: number | null }} Given */

/**
 * The total norm of every run; of the run in the focus also the threshold and what clipping left.
 *
 * @param {Given} given
 * @returns {Line[]}
 */
export function normLines({ runs, theme, trial }) {
  const colours = ink(theme);
  const measured = runs.filter(({ series }) => known(series, "total_norm") || series.nonfinite.some((bad) => bad > 0));
  if (!measured.length) return [];
  const totals = measured.flatMap((run) => {
    const { series } = run;
    const total = {
      ...band(run, "total_norm", theme, runs),
      at: series["total_norm.at"],
      bad: series.nonfinite,
      infinite: series.infinite,
    };
    if (!run.focused || !series.clipped.some((value) => value > 0)) return [total];
    const left = {
      ...band(run, "left_norm", theme, runs),
      label: `${prefix(run, runs)}left by clipping`,
      colour: colours.line,
      under: true,
    };
    return [left, total];
  });
  const focused = runs.find((run) => run.focused);
  if (!focused) return totals;
  const { first, last, "max_norm.high": threshold } = focused.series;
  const flat = { first, last, reference: true };
  /** @type {Line[]} */
  const references = [];
  if (threshold.some(Number.isFinite))
    references.push({ ...flat, label: "max_norm", colour: colours.text, high: threshold, dash: [6, 4] });
  if (trial !== null) {
    const high = Float64Array.from(first, () => trial);
    references.push({ ...flat, label: "threshold tried", colour: colours.warning, high, dash: [2, 3], width: 2 });
  }
  return [...totals, ...references];
}

/**
 * The loss where it was recorded.
 *
 * @param {Given} given
 * @returns {Line[]}
 */
export function lossLines({ runs, theme }) {
  const recorded = runs.filter(({ series }) => known(series, "loss") || series["loss.bad"].some((bad) => bad > 0));
  return recorded.map((run) => ({ ...band(run, "loss", theme, runs), bad: run.series["loss.bad"] }));
}

/**
 * The lines of a series, of the runs that recorded it.
 *
 * @param {string} name
 * @returns {(given: Given) => Line[]}
 */
export function recordedLines(name) {
  return ({ runs, theme }) =>
    runs.filter(({ series }) => known(series, name)).map((run) => band(run, name, theme, runs));
}

/**
 * A quantity of the updates, of the runs that recorded it. Where the updates of all parameters are read at some steps
 * only, that of the sentinels is drawn below it.
 *
 * @param {string} name
 * @returns {(given: Given) => Line[]}
 */
export function updateLines(name) {
  const few = `sentinel_${name}`;
  return ({ runs, theme }) =>
    runs
      .filter(({ series }) => known(series, name))
      .flatMap((run) => {
        const all = readings(band(run, name, theme, runs));
        if (!known(run.series, few)) return [all];
        const label = `${prefix(run, runs)}of the sentinels, each step`;
        const each = { ...band(run, few, theme, runs), label, colour: ink(theme).line, under: true };
        return [each, { ...all, label: `${all.label} of all, ${readEvery(run.updatesEvery)}` }];
      });
}

/**
 * The share of steps clipped, of runs that clip.
 *
 * @param {Given} given
 * @returns {Line[]}
 */
export function shareLines({ runs, theme }) {
  return runs.filter(clips).map((run) => {
    const { first, last, clipped } = run.series;
    return {
      label: `${prefix(run, runs)}clipped_fraction`,
      colour: runColour(run.slot, theme),
      first,
      last,
      high: clipped,
    };
  });
}

/**
 * The clipping coefficient, of runs that clip.
 *
 * @param {Given} given
 * @returns {Line[]}
 */
export function coefLines({ runs, theme }) {
  return runs.filter(clips).map((run) => band(run, "clip_coef", theme, runs));
}

/**
 * Whether all values are positive and lie decades apart: a linear axis would hide the small ones.
 *
 * @param {Line[]} lines
 */
export function spansDecades(lines) {
  const low = Math.min(...lines.map(({ low, high }) => ends(low ?? high)[0]));
  const high = Math.max(0, ...lines.map(({ high }) => ends(high)[1]));
  return low > 0 && high / low > 1000;
}

/** @param {Series} series @param {string} name */
function known(series, name) {
  return series[`${name}.high`]?.some(Number.isFinite) ?? false;
}

/** @param {DrawnRun} run */
function clips({ series }) {
  return series.clipped.some((value) => value > 0) || series["max_norm.high"].some(Number.isFinite);
}
